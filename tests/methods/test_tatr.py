"""TATR by hand, before another method, and where nothing conflicts."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from tests.make.sites import merge

TATR = get("tatr")


def masked(deltas: torch.Tensor, cut: float, ratio: float = 0.5) -> torch.Tensor:
    """Deltas of one tensor under a cut."""
    base = torch.zeros(deltas.shape[1:])
    return TATR(Site("w", len(deltas), Key(0, "w"), {"cut": cut}, deltas, base, are_deltas=True), ratio=ratio)


def test_by_hand() -> None:
    """Conflicts 2 * 8 = 16, 2 * 2 = 4 and 0, their roots 4, 2, 0: a cut of 4 leaves the last two."""
    deltas = torch.tensor([[1.0, 2.0, 5.0], [-8.0, 1.0, 0.0]])
    assert masked(deltas, 4.0).tolist() == [[0, 2, 5], [0, 1, 0]]
    assert masked(deltas, 0.0).tolist() == [[0, 0, 5], [0, 0, 0]]  # what does not conflict stays
    assert torch.equal(masked(deltas, 0.0, ratio=0.0), deltas)


def test_gradients_by_hand() -> None:
    """Gradients 1, 0 and 2, 4 against moves 3, 5 and 4, -1: conflicts 1 * 4 + 2 * 3 = 10 and 0 * 1 + 4 * 5 = 20.

    Of gradients alone: 2 * 1 * 2 = 4, and 0. At a cut of 4 each leaves out the element whose root reaches it.
    """
    base, deltas = torch.zeros(2), torch.tensor([[3.0, 5.0], [4.0, -1.0]])
    results = {"gradients": torch.tensor([[1.0, 0.0], [2.0, 4.0]])}

    def left(cut: float, sensitivity: str) -> list[list[float]]:
        site = Site("w", 2, Key(0, "w"), {**results, "cut": cut}, deltas, base, are_deltas=True)
        found: list[list[float]] = TATR(site, ratio=0.5, sensitivity=sensitivity).tolist()
        return found

    assert left(4.0, "gradients") == [[3, 0], [4, 0]]
    assert left(2.0, "ntk") == [[0, 5], [0, -1]]


def test_after_ties_have_trimmed() -> None:
    """TIES's trim, then the mask, then its election: what is trimmed is in nobody's way.

    Moves (1 2 8 4) and (-8 1 -4 2), of which each keeps 2: (0 0 8 4) and (-8 0 -4 0); only the third element still
    conflicts, 2 * 8 * 4 = 64. It is a quarter of all; the election then adds up what is left.
    """
    base, moves = torch.zeros(4), (torch.tensor([1.0, 2.0, 8.0, 4.0]), torch.tensor([-8.0, 1.0, -4.0, 2.0]))
    trim = ("trim", {"density": 0.5, "count": "exact", "scope": "tensor"})
    chain = [trim, ("tatr", {"ratio": 0.25}), ("ties", {"density": 1.0})]
    assert merge(chain, list(moves), base).tolist() == [-8, 0, 0, 4]
    whole = [("tatr", {"ratio": 0.25}), ("ties", {"density": 0.5, "scope": "tensor", "count": "exact"})]
    # Of whole task vectors conflicts are 16, 4, 64 and 16: the same element; then (0 2 0 4) and (-8 0 0 2) are kept.
    assert merge(whole, list(moves), base).tolist() == [-8, 2, 0, 3]


def test_the_cut_is_the_models(tmp_path: Path) -> None:
    """Two tensors, conflicts 2, 8 and 18, 32: half of four is left out, and both are in the second tensor.

    Task arithmetic adds what is left: 0 + 1 + 1 = 2 and 2 + 2 = 4 in the first, and the base's 1 in the second. TIES
    in its place averages those that agree, over the tasks: 1 and 2.
    """
    paths = []
    for name, first, second in (("base", [0.0, 0.0], [1.0, 1.0]), ("a", [1.0, 2.0], [4.0, 5.0])):
        paths.append(tmp_path / name)
        paths[-1].mkdir()
        save_file({"x.weight": torch.tensor([first]), "y.weight": torch.tensor([second])}, paths[-1] / "m.safetensors")
    base, model = map(str, paths)
    for follow, expected in (("task_arithmetic", [2.0, 4.0]), ({"ties": {"density": 1.0}}, [1.0, 2.0])):
        models = [{"model": model, "name": name} for name in ("one", "two")]
        recipe = eutectic.merge(models, base=base, method=[{"tatr": {"ratio": 0.5}}, follow])
        out = tmp_path / str(len(str(follow)))
        eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out=out)
        got = load_file(out / "model.safetensors")
        assert got["x.weight"].tolist() == [expected]
        assert got["y.weight"].tolist() == [[1.0, 1.0]]
