import math

import numpy as np
import pytest
import torch

from eutectic.numerics.draw import Key, drawn_share, threshold

MANY = 1 << 20


def keep(key: Key, *density: float, count: int = MANY) -> torch.Tensor:
    """Returns which of so many elements are kept."""
    return key.keep(density, torch.empty(len(density), count))


def lowbias32(x: int) -> int:
    """The mix as its author prints it: Wellons, Prospecting for hash functions, 2018."""
    x ^= x >> 16
    x = x * 0x7FEB352D & 0xFFFFFFFF
    x ^= x >> 15
    x = x * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def test_threshold() -> None:
    """Shares of 2**32; those outside [0, 1] are cut off."""
    assert [threshold(share) for share in (0.0, 0.25, 0.5, 1.0)] == [0, 1 << 30, 1 << 31, 1 << 32]
    assert threshold(-0.1) == 0
    assert threshold(1.1) == 1 << 32


def test_share_is_the_same_in_both_precisions() -> None:
    """A share that came through float32 draws what it drew before."""
    for share in (0.1, 0.3, 1 / 3, 0.999999999):
        assert threshold(float(np.float32(share))) == threshold(share)
        assert drawn_share(share) == float(np.float32(share))


def test_draws_are_the_published_mix() -> None:
    """With keys of zero, element i draws lowbias32(i * 0x9E3779B1)."""

    class Plain(Key):
        def streams(self, n: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
            return np.zeros((n, 2), np.uint32)

    kept = Plain(0, "w").keep((0.5,), torch.empty(1, 1000))[0].tolist()
    assert kept == [lowbias32(i * 0x9E3779B1 & 0xFFFFFFFF) < 1 << 31 for i in range(1000)]


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9, 0.999])
def test_share_kept(density: float) -> None:
    """Over a million elements the share is right to five standard deviations, for each of four models."""
    kept = keep(Key(3, "layer.weight"), *[density] * 4).float().mean(1)
    room = 5 * math.sqrt(density * (1 - density) / MANY)
    assert ((kept - density).abs() < room).all()


def test_all_or_nothing() -> None:
    """Density 1 keeps every element and density 0 none."""
    kept = keep(Key(0, "w"), 1.0, 0.0)
    assert kept[0].all()
    assert not kept[1].any()


def independent(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two fair masks agree as often as independent ones do, to five standard deviations."""
    return abs(float((left == right).float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(len(left))


def test_independent_streams() -> None:
    """Seeds, tensors, chain positions and models draw apart from one another, also when shifted against each other."""
    first = keep(Key(0, "w"), 0.5, 0.5, 0.5)
    others = [first[1], first[2], keep(Key(1, "w"), 0.5)[0], keep(Key(0, "v"), 0.5)[0], keep(Key(0, "w", 1), 0.5)[0]]
    for other in others:
        assert independent(first[0], other)
        for shift in (1, 2, 64, 2048):
            assert independent(first[0], other.roll(shift))
    for shift in (1, 2, 3, 16, 1024, 65536):
        assert independent(first[0], first[0].roll(shift))


def test_pairs_of_neighbours_are_even() -> None:
    """All 256 patterns of eight elements in a row come equally often (chi-square, 255 degrees of freedom)."""
    kept = keep(Key(11, "w"), 0.5)[0].reshape(-1, 8)
    code = (kept.long() * (2 ** torch.arange(8))).sum(1)
    counts = torch.bincount(code, minlength=256).double()
    mean = len(code) / 256
    chi = float(((counts - mean) ** 2 / mean).sum())
    assert abs(chi - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize("start", [0, 77, (1 << 32) - 500, 3 << 33])
def test_a_slice_draws_what_the_whole_draws(start: int) -> None:
    """Elements keep their draws whatever slice they are asked for in."""
    whole = Key(5, "w", 0, start).keep((0.3, 0.6), torch.empty(2, 1000))
    parts = [Key(5, "w", 0, start + at).keep((0.3, 0.6), torch.empty(2, 100)) for at in range(0, 1000, 100)]
    assert torch.equal(torch.cat(parts, 1), whole)


def test_blocks_of_two_to_the_32_differ() -> None:
    """Element e and element e + 2**32 draw apart."""
    assert independent(keep(Key(0, "w"), 0.5)[0], keep(Key(0, "w", 0, 1 << 32), 0.5)[0])


def test_shape_does_not_matter() -> None:
    """Elements are counted in row-major order."""
    flat = Key(0, "w").keep((0.5,), torch.empty(1, 24))
    assert torch.equal(Key(0, "w").keep((0.5,), torch.empty(1, 2, 3, 4)).reshape(1, 24), flat)
    assert Key(0, "w").keep((0.5, 0.5), torch.empty(2)).shape == (2,)


def test_at_changes_the_position_only() -> None:
    """A key of another step has the same seed, name and start."""
    assert Key(1, "w", 0, 64).at(3) == Key(1, "w", 3, 64)
