"""PEFT's combination types, by hand on factors of rank one."""

import pytest
import torch

from eutectic.adapters.factors import Factors
from eutectic.errors import MismatchError
from tests.make.factors import made, merged, updates

#: `linear` and magnitude pruning have no vote, a draw shows the order of the adapters.
LAWS_ASIDE = {"type": {"symmetric"}}


def rank_one(b: list[float], a: list[float], scale: float = 1.0) -> Factors:
    """Returns the update scale * b a."""
    return Factors(torch.tensor(b).double()[:, None], torch.tensor(a).double()[None], scale)


def test_linear_has_cross_terms() -> None:
    """Factors are added apart, each with the root of weight times scale.

    B = sum sqrt(w_i s_i) B_i = 1 (1,0) + 2 (0,1) = (1,2); A = (1,1) + 2 (1,-1) = (3,-1). B A = [[3,-1],[6,-2]],
    where the sum of the updates is [[1,1],[4,-4]].
    """
    parts = [rank_one([1, 0], [1, 1], 2.0), rank_one([0, 1], [1, -1], 4.0)]
    got = merged(("peft", {"weight": (0.5, 1.0)}), parts)
    assert torch.allclose(got, torch.tensor([[3.0, -1.0], [6.0, -2.0]]).double())


@pytest.mark.parametrize("kind", ["cat", "svd"])
def test_exact_types_are_the_sum(kind: str) -> None:
    """0.5 * 2 (1,0)(1,1) + 1 * 4 (0,1)(1,-1) = [[1,1],[4,-4]]; adapters of other ranks are welcome."""
    parts = [rank_one([1, 0], [1, 1], 2.0), rank_one([0, 1], [1, -1], 4.0)]
    got = merged(("peft", {"type": kind, "weight": (0.5, 1.0)}), parts)
    assert torch.allclose(got, torch.tensor([[1.0, 1.0], [4.0, -4.0]]).double())
    assert made(("peft", {"type": kind}), updates(2, ranks=(2, 3))).rank == 5


def test_negative_weights_stay_negative() -> None:
    """The sign goes to A alone: -1 (1)(2) + ... of one adapter among two, whose other has weight 0."""
    parts = [rank_one([1.0], [2.0]), rank_one([5.0], [5.0])]
    assert float(merged(("peft", {"weight": (-1.0, 0.0)}), parts)) == -2.0


def test_ties_votes_before_weights() -> None:
    """Signs are elected on factors without their weights.

    Columns of A: (3, -1) and (-2, -1), no pruning; votes +1 and -2. The first column keeps 3 w_1 over one who
    agrees, the second the mean of -1 and -1. A = (3, -1), B = (1): all agree on (1, 1), mean 1.
    """
    parts = [rank_one([1.0], [3.0, -1.0]), rank_one([1.0], [-2.0, -1.0])]
    got = merged(("peft", {"type": "ties", "density": 1.0}), parts)
    assert torch.allclose(got, torch.tensor([[3.0, -1.0]]).double())


def test_ties_signs_may_count_instead() -> None:
    """Values 3, -1, -1: the sum 1 elects plus, the count minus."""
    parts = [rank_one([1.0], [value]) for value in (3.0, -1.0, -1.0)]
    for sign, expected in (("total", 3.0), ("frequency", -1.0)):
        assert float(merged(("peft", {"type": "ties", "density": 1.0, "sign": sign}), parts)) == expected


def test_pruning_keeps_so_many() -> None:
    """Half of four values: 4 and 3 of (1, 4, -3, 2), with a weight of 1 on the one and 0 on the other adapter."""
    parts = [rank_one([1.0], [1.0, 4.0, -3.0, 2.0]), rank_one([1.0], [0.0, 0.0, 0.0, 0.0])]
    got = made(("peft", {"type": "magnitude_prune", "density": 0.5, "weight": (1.0, 0.0)}), parts)
    assert got.a.tolist() == [[0.0, 4.0, -3.0, 0.0]]


def test_dense_types_work_on_updates() -> None:
    """magnitude_prune_svd at density 1 is the weighted sum; at 0.25 it keeps the largest of four entries each."""
    parts = [rank_one([1, 2], [1, 3]), rank_one([1, -1], [2, 1])]
    whole = merged(("peft", {"type": "magnitude_prune_svd", "density": 1.0}), parts)
    assert torch.allclose(whole, parts[0].dense() + parts[1].dense())
    few = merged(("peft", {"type": "magnitude_prune_svd", "density": 0.25, "weight": (1.0, 0.0)}), parts)
    assert few.tolist() == [[0.0, 0.0], [0.0, 6.0]]


def test_dare_of_density_zero_is_zero() -> None:
    """PEFT divides zero by zero there."""
    got = merged(("peft", {"type": "dare_linear", "density": 0.0}), updates(2))
    assert float(got.abs().max()) == 0.0


def test_one_adapter_is_scaled() -> None:
    """Whatever the type: PEFT takes `linear` then."""
    (part,) = updates(1)
    for kind in ("ties", "svd", "dare_ties_svd"):
        assert torch.allclose(merged(("peft", {"type": kind, "weight": 0.5}), [part]), part.dense() / 2)


def test_ranks_must_agree_where_factors_are_added() -> None:
    """The message names the exact types."""
    with pytest.raises(MismatchError, match="svd or cat"):
        made(("peft", {"type": "ties"}), updates(2, ranks=(2, 3)))
