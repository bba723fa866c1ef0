import pytest
import torch

from eutectic.errors import UndeclaredNeed
from eutectic.methods.site import Site, weighted_sum
from eutectic.numerics.draw import Key

MODELS = torch.tensor([[2.0, 4.0], [8.0, 16.0]])
BASE = torch.tensor([1.0, 2.0])


def site(**how: object) -> Site:
    """Returns a site of two models."""
    return Site("w", 2, Key(0, "w"), {"norm": 3.0}, **how)  # type: ignore[arg-type]


def test_models_and_deltas() -> None:
    """Each from the other, through the base."""
    full = site(values=MODELS, anchor=BASE)
    assert full.tensors.tolist() == MODELS.tolist()
    assert full.deltas.tolist() == [[1.0, 2.0], [7.0, 14.0]]
    changed = full.with_deltas(full.deltas * 2)
    assert changed.deltas.tolist() == [[2.0, 4.0], [14.0, 28.0]]
    assert changed.tensors.tolist() == [[3.0, 6.0], [15.0, 30.0]]
    assert changed.base is full.base


def test_what_was_not_declared_is_refused() -> None:
    """The message names tensor and declaration."""
    with pytest.raises(UndeclaredNeed, match=r"w: .*Needs\(base=True\)"):
        _ = site(values=MODELS).base
    with pytest.raises(UndeclaredNeed, match=r"Needs\(base=True\)"):
        _ = site(values=MODELS).deltas
    with pytest.raises(UndeclaredNeed, match="fold 'norms' was read but not declared"):
        site(values=MODELS).fold("norms")
    assert site().fold("norm") == 3.0


def test_a_site_without_values_has_statistics_only() -> None:
    """As a method sees it while it describes itself to the kernels."""
    with pytest.raises(UndeclaredNeed, match="tensors cannot be read here"):
        _ = site(anchor=BASE).tensors
    with pytest.raises(UndeclaredNeed, match="deltas cannot be read here"):
        _ = site(anchor=BASE).deltas


def test_models_are_whole_without_a_base() -> None:
    """What needs no base asks for none."""
    assert site(values=MODELS).tensors.tolist() == MODELS.tolist()


@pytest.mark.parametrize(("shape", "expected"), [((2,), (2,)), ((2, 3), (2, 1)), ((2, 3, 4), (2, 1, 1))])
def test_column(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Numbers per model broadcast, in the precision of the values."""
    column = site(values=torch.zeros(shape, dtype=torch.float64)).column((0.1, 0.2))
    assert column.shape == expected
    assert column.flatten().tolist() == [0.1, 0.2]


def test_weighted_sum() -> None:
    """In model order: (1e30 - 1e30) + 1 is 1, and a lone negative zero keeps its sign."""
    rows = torch.tensor([[1e30], [-1e30], [1.0]])
    assert weighted_sum(torch.ones(3, 1), rows).tolist() == [1.0]
    assert weighted_sum(torch.tensor([[2.0], [0.0], [1.0]]), rows).tolist() == [float(torch.tensor(2e30))]
    assert weighted_sum(torch.ones(1, 1), torch.tensor([[-0.0]])).signbit().item()
    assert weighted_sum(torch.ones(2), torch.tensor([1.0, 2.0])).shape == ()


def test_each_is_a_loop_on_any_number_of_threads() -> None:
    """Results come in order, also when later calls are done first; an error is raised, not lost."""
    for lanes in (1, 3):
        site = Site("w", 2, Key(0, "w"), {}, lanes=lanes)
        assert site.each(lambda item: item * item, range(7)) == [0, 1, 4, 9, 16, 25, 36]
        with pytest.raises(ZeroDivisionError):
            site.each(lambda item: 1 // item, [1, 0])
