import pytest
import torch

from eutectic.methods.extras import Outputs
from tests.make.sites import Job, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([10, 10, 10, 10])
A = table([4, 1, 0, -2])
B = table([1, -1, 0, -2])


def extras(fused: bool, deltas: list[torch.Tensor], **values: object) -> Outputs:
    """Returns the merged delta around the base, and the masks."""
    sink = Job([("tall_masks", values)], [BASE + delta for delta in deltas], BASE, fused=fused).run()
    return Outputs(sink.tensor("w") - BASE, sink.extras("w"))


@FUSED
def test_by_hand(fused: bool) -> None:
    """The sum is 5, 0, 0, -4; A is 1, 1, 0, 2 away from it and 4, 1, 0, 2 from the base; B 4, 1, 0, 2 and 1, 1, 0, 2.

    Threshold 0.5: A has 4 > 0.5, 1 > 0.5, not 0 > 0, 2 > 1; B not 1 > 2, then 1 > 0.5, not 0 > 0, 2 > 1.
    Threshold 1 is strict: A keeps the first alone, B nothing.
    """
    made = extras(fused, [A, B], threshold=0.5)
    assert made.merged.tolist() == [[5, 0, 0, -4]]
    assert made.extras["mask"].tolist() == [[[1, 1, 0, 1]], [[0, 1, 0, 1]]]
    assert extras(fused, [A, B], threshold=1.0).extras["mask"].tolist() == [[[1, 0, 0, 0]], [[0, 0, 0, 0]]]
    both = extras(fused, [A, B], threshold=(1.0, 0.5)).extras["mask"]
    assert both.tolist() == [[[1, 0, 0, 0]], [[0, 1, 0, 1]]]


@FUSED
def test_ties_vector(fused: bool) -> None:
    """Density 0.5 of four, the authors' count: from the second smallest on, magnitudes 1 of A and 1 of B.

    A keeps 4, 1, -2 and B 1, -1, -2. Votes 5, 0, 0, -4: the zeros go to the majority, of one plus and one minus, which
    is minus: 5, -1, 0, -4. A is 1, 2, 0, 2 away from it and B 4, 0, 0, 2; the masks look at the models untrimmed.
    Threshold 0.25: A 4 > 0.25, 1 > 0.5, no, 2 > 0.5; B not 1 > 1, 1 > 0, no, 2 > 0.5.
    """
    made = extras(fused, [A, B], threshold=0.25, vector="ties", density=0.5)
    assert made.merged.tolist() == [[5, -1, 0, -4]]
    assert made.extras["mask"].tolist() == [[[1, 1, 0, 1]], [[0, 1, 0, 1]]]
    trimmed = extras(fused, [A, B + table([0, 0, 0.5, 0])], threshold=0.25, vector="ties", density=0.5)
    assert trimmed.merged.tolist() == [[5, -1, 0, -4]]  # B's 0.5 is cut off: its cut is the second smallest, 1
    assert trimmed.extras["mask"].tolist() == [[[1, 1, 0, 1]], [[0, 1, 1, 1]]]  # and still 0.5 > 0.25 * 0.5
