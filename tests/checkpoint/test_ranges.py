import pytest

from eutectic.checkpoint.ranges import elements, find, first_byte
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.errors import CheckpointError

BF16 = TensorSpec("w", (4, 5), DTYPES["BF16"])
F4 = TensorSpec("w", (4, 5), DTYPES["F4"])


def test_find_suggests_the_nearest_name() -> None:
    """An unknown name is an error that names the source and the closest tensor."""
    with pytest.raises(CheckpointError, match=r"model/: there is no tensor 'lm_haed'; did you mean 'lm_head'\?"):
        find({"lm_head": BF16}, "lm_haed", "model/")


def test_first_byte() -> None:
    """Elements begin at their number times their size, also when two share a byte."""
    assert first_byte(BF16, 3, 4) == 6
    assert first_byte(F4, 6, 2) == 3
    assert first_byte(BF16, 20, 0) == 40
    assert elements(F4, 3) == 6


@pytest.mark.parametrize(
    ("spec", "start", "size"), [(BF16, -1, 2), (BF16, 19, 4), (BF16, 0, 3), (F4, 1, 1), (BF16, 21, 0)]
)
def test_ranges_outside_are_refused(spec: TensorSpec, start: int, size: int) -> None:
    """A range that leaves the tensor, or cuts an element or a byte, is the caller's bug."""
    with pytest.raises(ValueError, match="are not a range of"):
        first_byte(spec, start, size)
