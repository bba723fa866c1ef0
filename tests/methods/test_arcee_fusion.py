import math

import pytest
import torch

from eutectic.methods import get
from eutectic.numerics.kernels import GRAIN
from tests.make.sites import Job, merge, table


def fusion(model: torch.Tensor, base: torch.Tensor, **how: object) -> torch.Tensor:
    """Returns the merge of one model into a base."""
    return merge(("arcee_fusion", {}), [model], base, **how)


def test_by_hand() -> None:
    """One row with logits 0, 0, 0, 0, 0 and 0, 0, 0, 0, 1: one divergence, so deltas rank as they are.

    Of |delta| = 0, 0, 0, 0, 1 the elements at 1, 2 and 3 of 0..4 are all 0: the threshold is 0 and all is taken.
    Of 1, 2, 3, 4, 40: quartiles 2 and 4, median 3, threshold 3 + 1.5 * 2 = 6: only 40 is taken.
    """
    base = torch.zeros(5)
    assert torch.equal(fusion(table([0, 0, 0, 0, 1])[0], base), table([0, 0, 0, 0, 1])[0])
    model = table([0.1, -0.2, 0.3, 0.4, -4.0])[0]
    assert torch.equal(fusion(model, base), table([0, 0, 0, 0, -4])[0])


def by_definition(model: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """The definition in double precision, with quartiles by sorting."""
    p, q = (torch.softmax(each.double(), -1) + 1e-8 for each in (model, base))
    weights = ((model - base).double().abs() * (p * (p / q).log()).sum(-1, keepdim=True)).float()
    order = weights.flatten().sort().values
    first, median, third = (float(order[int(share * (len(order) - 1))]) for share in (0.25, 0.5, 0.75))
    return model.where(weights.double() >= median + 1.5 * (third - first), base)


@pytest.mark.parametrize("shape", [(1,), (7,), (6, 8), (3, 5, 4), (1, 9), (9, 1), (300, 500)], ids=str)
def test_definition(shape: tuple[int, ...]) -> None:
    """Rows run along the last axis; a vector is one row. Elements within a rounding of the threshold are left out."""
    source = torch.Generator().manual_seed(sum(shape))
    base = torch.randn(shape, generator=source)
    model = base + 0.05 * torch.randn(shape, generator=source)
    found, expected = fusion(model, base), by_definition(model, base)
    assert int((found != expected).sum()) <= 1
    assert ((found == model) | (found == base)).all()


@pytest.mark.parametrize("held", [0, 1 << 30], ids=["swept", "held"])
def test_a_long_vector_is_one_row(held: int) -> None:
    """A row longer than a slice is shown whole."""
    source = torch.Generator().manual_seed(4)
    base = torch.randn(3 * GRAIN + 5, generator=source)
    model = base + 0.05 * torch.randn(len(base), generator=source)
    found = fusion(model, base, slice_elements=GRAIN, resident_bytes=held, threads=2)
    assert int((found != by_definition(model, base)).sum()) <= 1


def test_extremes() -> None:
    """An equal model, empty tensors and a number are themselves; a huge row overflows nothing."""
    base = table([1, 2, 3], [4, 5, 6])
    assert torch.equal(fusion(base, base), base)
    for shape in ((0,), (0, 3), (3, 0)):
        assert fusion(torch.ones(shape), torch.zeros(shape)).shape == shape
    assert float(fusion(torch.tensor(2.0), torch.tensor(1.0))) == 2.0  # a distribution of one diverges from none
    assert torch.isfinite(fusion(1e30 * base, base)).all()


def test_what_is_not_a_number_is_seen() -> None:
    """A row with a NaN has no divergence: it is taken as it is."""
    base = torch.zeros(3, 4)
    model = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    model[1, 2] = math.nan
    assert fusion(model, base)[1, 2].isnan()


def test_statistics_are_of_the_tensor() -> None:
    """Each tensor has its own threshold."""
    base = {"a": torch.zeros(5), "b": torch.zeros(5)}
    model = {"a": table([1, 2, 3, 4, 40])[0] / 10, "b": table([0.1, 0.2, 0.3, 0.4, 4])[0] / 10}
    sink = Job([("arcee_fusion", {})], [model], base).run()
    assert sink.tensor("a").count_nonzero() == sink.tensor("b").count_nonzero() == 1


def test_takes_one_and_a_base() -> None:
    """The base is what is left where nothing stands out."""
    needs = get("arcee_fusion").needs
    assert (needs.base, str(needs.models)) == (True, "exactly 1")
