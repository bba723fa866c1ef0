import pytest

from eutectic.checkpoint.spec import DTYPES, TORCH_NAMES, TensorSpec


@pytest.mark.parametrize(
    ("shape", "dtype", "numel", "nbytes"),
    [((), "F64", 1, 8), ((0, 5), "F32", 0, 0), ((2, 3), "BF16", 6, 12), ((3, 2), "F4", 6, 3), ((4,), "F6_E2M3", 4, 3)],
)
def test_sizes(shape: tuple[int, ...], dtype: str, numel: int, nbytes: int) -> None:
    """A 0-d tensor has one element, an empty one none, and types below a byte are packed."""
    spec = TensorSpec("x", shape, DTYPES[dtype])
    assert (spec.numel, spec.nbytes) == (numel, nbytes)


def test_only_floats_are_mergeable() -> None:
    """Integers, booleans, complex numbers and codes that need scales are not numbers to average."""
    assert {name for name, dtype in DTYPES.items() if dtype.mergeable} == {"F64", "F32", "F16", "BF16"}
    assert set(TORCH_NAMES.values()) == {"F64", "F32", "F16", "BF16"}
