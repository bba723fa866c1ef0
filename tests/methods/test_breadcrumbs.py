import pytest
import torch

from tests.make.sites import merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
DELTA = table([1, -2, 3, -4, 5], [-50, 40, -30, 20, 10])
BASE = torch.zeros(2, 5)


def crumbs(fused: bool, delta: torch.Tensor = DELTA, **values: object) -> list[list[float]]:
    """Returns what is left of one model's deltas."""
    chain = [("breadcrumbs", values), ("task_arithmetic", {})]
    found = merge(chain, [delta], torch.zeros_like(delta), fused=fused, double=True, out="F64")
    return found.tolist()  # type: ignore[no-any-return]


@FUSED
def test_by_hand(fused: bool) -> None:
    """Of five in a row int(5 * 0.2) = 1 goes, the largest, and the int(5 * 0.4) = 2 next stay."""
    assert crumbs(fused, density=0.4, gamma=0.2) == [[0, 0, 3, -4, 0], [0, 40, -30, 0, 0]]


@FUSED
def test_the_whole_tensor(fused: bool) -> None:
    """Of ten, int(10 * 0.2) = 2 go (50 and 40) and int(10 * 0.4) = 4 stay: 30, 20, 10 and 5."""
    assert crumbs(fused, density=0.4, gamma=0.2, scope="tensor") == [[0, 0, 0, 0, 5], [0, 0, -30, 20, 10]]


@FUSED
def test_products_of_floats_are_truncated(fused: bool) -> None:
    """int(5 * 0.39) = 1 stays, int(5 * 0.01) = 0 go."""
    assert crumbs(fused, density=0.39) == [[0, 0, 0, 0, 5], [-50, 0, 0, 0, 0]]


@FUSED
@pytest.mark.parametrize(("scope", "size"), [("row", 5), ("tensor", 10)])
def test_where_both_shares_exceed_one(fused: bool, scope: str, size: int) -> None:
    """With density 0.8 and gamma 0.4, gamma's share goes and the rest stays; or density's stays and the rest goes."""
    rank = torch.empty(2, 5)
    rank[0], rank[1] = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([5, 4, 3, 2, 1])
    rank += torch.tensor([[0], [5]]) if scope == "tensor" else 0
    for first, kept in (("gamma", int(size * 0.6)), ("density", int(size * 0.8))):
        found = crumbs(fused, density=0.8, gamma=0.4, scope=scope, first=first)
        assert found == (DELTA * (rank <= kept)).tolist(), first


@FUSED
def test_ends(fused: bool) -> None:
    """Density 1 loses the largest still, unless density comes first; density 0 leaves nothing."""
    assert crumbs(fused, density=1.0, gamma=0.2) == [[1, -2, 3, -4, 0], [0, 40, -30, 20, 10]]
    assert crumbs(fused, density=1.0, gamma=0.2, first="density") == DELTA.tolist()
    for scope in ("row", "tensor"):
        assert crumbs(fused, density=0.0, scope=scope) == BASE.tolist()
        assert crumbs(fused, density=0.5, gamma=1.0, scope=scope) == BASE.tolist()


@FUSED
def test_equal_magnitudes(fused: bool) -> None:
    """In a row the later is the larger, so counts are exact; a tensor's cuts keep all that equal them."""
    equal = table([1, -1, 1, -1])
    assert crumbs(fused, equal, density=0.5, gamma=0.25) == [[0, -1, 1, 0]]
    assert crumbs(fused, equal, density=0.5, gamma=0.25, scope="tensor") == [[1, -1, 1, -1]]


@FUSED
@pytest.mark.parametrize("scope", ["row", "tensor"])
def test_mass_is_restored(fused: bool, scope: str) -> None:
    """8 is all there is, and 3 is kept: times 8 / 3."""
    delta = table([1, -3, 4])
    assert crumbs(fused, delta, density=0.4, gamma=0.34, scope=scope, rescale="l1") == [[0, -3 * (8 / 3), 0]]


@FUSED
def test_models_have_their_own_shares(fused: bool) -> None:
    """1 of 5 and 2 of 5, after none and one are gone."""
    values = {"density": (0.2, 0.4), "gamma": (0.0, 0.2)}
    chain = [("breadcrumbs", values), ("task_arithmetic", {"weight": (1.0, 10.0)})]
    found = merge(chain, [DELTA[:1], DELTA[:1]], BASE[:1], fused=fused)
    assert found.tolist() == [[0, 0, 30, -40, 5]]


@FUSED
def test_before_a_vote(fused: bool) -> None:
    """Behind Breadcrumbs, TIES trims what is left of the whole tensor: of 3, 4, 40 and 30 the largest, 40."""
    vote = {"density": 0.1, "scope": "tensor", "count": "exact"}
    chain = [("breadcrumbs", {"density": 0.4, "gamma": 0.2}), ("ties", vote)]
    assert merge(chain, [DELTA], BASE, fused=fused).tolist() == [[0, 0, 0, 0, 0], [0, 40, 0, 0, 0]]


@FUSED
def test_one_row(fused: bool) -> None:
    """A vector is one row, and a scalar too."""
    chain = [("breadcrumbs", {"density": 0.4, "gamma": 0.2}), ("task_arithmetic", {})]
    assert merge(chain, [DELTA[0]], BASE[0], fused=fused).tolist() == [0, 0, 3, -4, 0]
    scalar = torch.tensor(2.0)
    chain = [("breadcrumbs", {"density": 1.0}), ("task_arithmetic", {})]
    assert merge(chain, [scalar], torch.tensor(0.0), fused=fused).item() == 2
