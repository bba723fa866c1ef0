import pytest
import torch

from tests.make.sites import Job, merge, table

FUSED = pytest.mark.parametrize("fused", [True, False], ids=["kernels", "torch"])
BASE = table([1, 1, 1], [1, 1, 1])
DELTA = table([8, -4, 2], [1, 0.5, -0.5])


def trim(fused: bool, delta: torch.Tensor = DELTA, **values: object) -> torch.Tensor:
    """Returns what is left of one model's deltas."""
    return (
        merge([("trim", values), ("task_arithmetic", {})], [BASE + delta], BASE, fused=fused, double=True, out="F64")
        - BASE
    )


@FUSED
def test_by_hand(fused: bool) -> None:
    """Density 0.3 of six: the authors' rank is 6 - int(1.8) = 5, so from 4 on; an exact count keeps one, 8."""
    assert trim(fused, density=0.3).tolist() == [[8, -4, 0], [0, 0, 0]]
    assert trim(fused, density=0.3, count="exact").tolist() == [[8, 0, 0], [0, 0, 0]]
    # MergeLM masks at the int(6 * 0.7) = 4th smallest, which it keeps.
    assert trim(fused, density=0.3, count="mask_rate").tolist() == [[8, -4, 2], [0, 0, 0]]


@FUSED
def test_equal_magnitudes_are_all_kept(fused: bool) -> None:
    """0.5 and -0.5 are the smallest two: a cut there keeps both."""
    assert trim(fused, density=0.8).tolist() == DELTA.tolist()  # rank 6 - 4 = 2


@FUSED
def test_ends(fused: bool) -> None:
    """Density 1 keeps all, 0 nothing, and the sign is no matter."""
    assert trim(fused, density=1.0).tolist() == DELTA.tolist()
    assert (trim(fused, density=0.0) == 0).all()
    assert trim(fused, -DELTA, density=0.3).tolist() == [[-8, 4, 0], [0, 0, 0]]


@FUSED
def test_mass_is_restored(fused: bool) -> None:
    """Magnitudes add up to 16 and to 8 when only 8 is left: it is doubled."""
    assert trim(fused, density=0.3, count="exact", rescale="l1").tolist() == [[16, 0, 0], [0, 0, 0]]
    # 8 and 4 are left of 16: times 4 / 3, in full precision.
    assert torch.equal(trim(fused, density=0.3, rescale="l1")[0, :2], torch.tensor([8.0, -4.0]).double() * (16 / 12))


@FUSED
def test_tiny_masses_are_left_alone(fused: bool) -> None:
    """Below 1e-7, as in mergekit: 16e-9 in all."""
    models = [DELTA * 1e-9]
    chain = [("trim", {"density": 0.3, "count": "exact", "rescale": "l1"}), ("task_arithmetic", {})]
    merged = merge(chain, models, torch.zeros(2, 3), fused=fused)
    assert merged[0, 0] == models[0][0, 0]


@FUSED
@pytest.mark.parametrize(("scope", "kept"), [("model", [[0, 0], [3, 4]]), ("tensor", [[0, 2], [0, 4]])])
def test_scope(fused: bool, scope: str, kept: list[list[float]]) -> None:
    """Half of four together, counted exactly, are 3 and 4; half of each pair the larger one."""
    model = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 4.0])}
    base = {name: torch.zeros(2) for name in model}
    values = {"density": 0.5, "scope": scope, "count": "exact"}
    merged = Job([("trim", values), ("task_arithmetic", {})], [model], base, fused=fused).run()
    assert [merged.tensor(name).tolist() for name in model] == kept


@FUSED
def test_models_have_their_own_cuts(fused: bool) -> None:
    """A density a model, and a cut from its own deltas: 8 of the first, all of the second."""
    values = {"density": (0.2, 1.0), "count": "exact"}
    models = [BASE + DELTA, BASE + DELTA / 8]
    merged = merge([("trim", values), ("task_arithmetic", {"weight": (1.0, 8.0)})], models, BASE, fused=fused) - BASE
    assert merged.tolist() == [[16, -4, 2], [1, 0.5, -0.5]]
