from pathlib import Path

import pytest

import eutectic
from eutectic.errors import CheckpointError, RecipeError
from tests.make.adapters import factors, write_adapter


def test_verbs_make_recipes() -> None:
    """Nothing is read: the files need not be there."""
    extracted = eutectic.extract_adapter("tuned", base="base", rank=16, error=0.1)
    assert extracted.to_dict() == {
        "base": "base",
        "models": [{"model": "tuned"}],
        "method": "task_arithmetic",
        "output": {"form": "adapter", "rank": 16, "error": 0.1, "rest": "save"},
    }
    merged = eutectic.merge_adapters(["a", Path("b")])
    assert merged.to_dict() == {
        "models": [{"model": "a", "weight": 0.5}, {"model": "b", "weight": 0.5}],
        "method": "task_arithmetic",
        "output": {"form": "adapter"},
    }
    chosen = eutectic.merge_adapters(["a", "b"], method={"ties": {"density": 0.3}}, rank=8, dtype="bfloat16")
    assert chosen.output.rank == 8
    assert [entry.parameters for entry in chosen.models] == [{}, {}]
    folded = eutectic.fold_adapters("base", ["a", "b"], weights=[1, -1])
    assert folded.output.form == "model"
    assert [entry.parameters["weight"] for entry in folded.models] == [1, -1]
    assert [entry.parameters["weight"] for entry in eutectic.fold_adapters("base", ["a"]).models] == [1.0]


def test_what_is_missing_is_said() -> None:
    """A size to extract to; a weight an adapter; bounds of rank and error."""
    with pytest.raises(RecipeError, match="a rank or an error"):
        eutectic.extract_adapter("tuned", base="base")
    with pytest.raises(RecipeError, match="one weight an adapter, found 1 for 2"):
        eutectic.merge_adapters(["a", "b"], weights=[1.0])
    for wrong in ({"rank": 0}, {"error": 1.5}):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            eutectic.merge_adapters(["a"], **wrong)  # type: ignore[arg-type]


def test_an_adapter_is_looked_at(tmp_path: Path) -> None:
    """By its folder; what is none is refused."""
    folder = write_adapter(tmp_path / "a", factors("layers.0.q", 6, 5))
    found = eutectic.inspect_adapter(folder)
    assert [(each.name, each.rank, each.scale) for each in found.updates] == [("layers.0.q.weight", 2, 2.0)]
    with pytest.raises(CheckpointError):
        eutectic.inspect_adapter(tmp_path / "nothing")
