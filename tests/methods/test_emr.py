import numpy as np
import pytest
import torch

from eutectic.methods.emr import rescalers
from eutectic.methods.extras import Outputs
from tests.make.sites import Job, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([10, 10, 10, 10])
A = table([3, -2, 1, 0])
B = table([1, -4, -1, 0])
C = table([-2, 3, 0, 5])


def extras(fused: bool, deltas: list[torch.Tensor], **values: object) -> Outputs:
    """Returns what EMR makes of deltas around the base: the merged delta, masks and rescalers."""
    job = Job([("emr", values)], [BASE + delta for delta in deltas], BASE, fused=fused)
    sink = job.run()
    return Outputs(sink.tensor("w") - BASE, sink.extras("w"))


@FUSED
def test_by_hand(fused: bool) -> None:
    """Sums 2, -3, 0 and 5 elect plus, minus, minus (a zero) and plus; the largest of who agrees is 3, -4, -1 and 5.

    A agrees in the first two, B in the first three, C in the last. One tensor, so means and sums have one ratio:
    A: (3 + 2 + 1) / (3 + 4) = 6 / 7;  B: (1 + 4 + 1) / (3 + 4 + 1) = 6 / 8;  C: (2 + 3 + 5) / 5 = 2.
    """
    made = extras(fused, [A, B, C])
    assert made.merged.tolist() == [[3, -4, -1, 5]]
    assert made.extras["mask"].tolist() == [[[1, 1, 0, 0]], [[1, 1, 1, 0]], [[0, 0, 0, 1]]]
    assert made.extras["rescaler"].tolist() == torch.tensor([6 / 7, 6 / 8, 2.0]).tolist()


@FUSED
def test_means_and_sums(fused: bool) -> None:
    """Two tensors of four elements and of one; the second's deltas are 8 and -2, so that 8 wins.

    Means, A: (6 / 4 + 8) / (7 / 4 + 8) = 9.5 / 9.75; B: (6 / 4 + 2) / (8 / 4 + 0) = 1.75.
    Sums, A: 14 / 15; B: 8 / 8 = 1. Without C the first tensor elects 3, -4, minus (a zero) -1 and nobody.
    """
    models = [{"w": BASE + delta, "v": torch.tensor([10.0 + own])} for delta, own in ((A, 8.0), (B, -2.0))]
    for rescale, expected in (("mean", [9.5 / 9.75, 1.75]), ("sum", [14 / 15, 1.0])):
        job = Job([("emr", {"rescale": rescale})], models, {"w": BASE, "v": torch.tensor([10.0])}, fused=fused)
        sink = job.run()
        for name in ("w", "v"):
            assert sink.extras(name)["rescaler"].tolist() == torch.tensor(expected).tolist()


@FUSED
def test_nobody_agrees(fused: bool) -> None:
    """3 - 2 - 2 elects minus: A agrees nowhere, and its rescaler is 1 where the paper divides by zero."""
    one = table([0, 0, 0, 1])
    made = extras(fused, [3 * one, -2 * one, -2 * one])
    assert made.extras["rescaler"].tolist() == [1, 1, 1]
    assert made.extras["mask"][0].sum() == 0
    assert rescalers(np.zeros((2, 2))) == (1.0, 1.0)


@FUSED
def test_not_finite_is_seen(fused: bool) -> None:
    """A NaN in one model is one in the result."""
    broken = BASE.clone()
    broken[0, 1] = float("nan")
    assert merge(("emr", {}), [broken, BASE + B], BASE, fused=fused).isnan().tolist() == [[False, True, False, False]]
