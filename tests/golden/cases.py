"""What a golden case is on disk, and when an output agrees with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

Weights = dict[str, torch.Tensor]
HERE = Path(__file__).parent
NOT_BUILT = HERE / "not_built.txt"


@dataclass(frozen=True)
class Case:
    """One case folder, or one output of one: `output` names the file `out_<output>.safetensors`."""

    folder: Path
    output: str | None = None

    @property
    def name(self) -> str:
        """The folder's name, and the output after a slash where a case has several."""
        return self.folder.name if self.output is None else f"{self.folder.name}/{self.output}"

    @property
    def facts(self) -> dict[str, Any]:
        """`case.json`."""
        facts: dict[str, Any] = json.loads((self.folder / "case.json").read_text())
        return facts


def not_built() -> frozenset[str]:
    """Returns the cases, and single outputs of cases, that wait for a method; `#` starts a comment."""
    lines = (line.split("#")[0].strip() for line in NOT_BUILT.read_text().splitlines())
    return frozenset(line for line in lines if line)


def families() -> list[Path]:
    """Returns the families beside this file: folders whose folders hold a case.json, or params.json."""
    facts = (path for name in ("case.json", "params.json") for path in HERE.glob(f"*/*/{name}"))
    return sorted({path.parents[1] for path in facts})


def find(family: Path) -> list[Case]:
    """Returns every case of a family: its folders, and whatever its index names beyond them."""
    names = {path.name for path in family.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}
    index = family / "index.json"
    if index.is_file():
        names |= {entry["case"] for entry in json.loads(index.read_text())}
    return [case for name in sorted(names) for case in _outputs(family / name)]


def _outputs(folder: Path) -> list[Case]:
    """Splits a case with several named results, so that each can be waited for alone."""
    facts = json.loads((folder / "case.json").read_text()) if (folder / "case.json").is_file() else {}
    outputs = facts.get("outputs") or list(facts.get("observed", {}))
    if not outputs and (folder / "expected.safetensors").is_file():
        with safe_open(folder / "expected.safetensors", "pt") as expected:
            outputs = sorted({name.partition("/")[0] for name in expected.keys() if "/" in name})  # noqa: SIM118
    return [Case(folder, output) for output in outputs] or [Case(folder)]


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Reads a file, or every shard of a folder, with the format's own library, not with ours."""
    if path.is_file():
        return load_file(path)
    found: dict[str, torch.Tensor] = {}
    for shard in sorted(path.glob("*.safetensors")):
        part = load_file(shard)
        assert not found.keys() & part.keys(), f"{shard} repeats {sorted(found.keys() & part.keys())}"
        found |= part
    assert found, f"no weights in {path}"
    return found


def check_equal(
    got: Mapping[str, torch.Tensor],
    want: Mapping[str, torch.Tensor],
    tolerance: Mapping[str, float],
    skip: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Holds names, shapes, dtypes and |got - want| <= atol + rtol |want|, except where `skip` is true."""
    assert got.keys() == want.keys(), f"missing {want.keys() - got.keys()}, extra {got.keys() - want.keys()}"
    for name, expected in want.items():
        found = got[name]
        assert found.shape == expected.shape, f"{name}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
        assert found.dtype == expected.dtype, f"{name}: {found.dtype}, expected {expected.dtype}"
        error = (found.double() - expected.double()).abs()
        bound = tolerance["atol"] + tolerance["rtol"] * expected.double().abs()
        wrong = ~(error <= bound)
        if skip is not None:
            wrong &= ~skip[name]
        worst = float((error / bound)[wrong].max()) if wrong.any() else 0.0
        assert not wrong.any(), f"{name}: {int(wrong.sum())} of {wrong.numel()} differ, worst {worst:.3g} x allowed"


def check_config(got: Path, want: Path, declares_dtype: bool) -> None:
    """Holds the number of blocks, and the dtype field when the recipe sets one; the reference fixes nothing else."""
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (got, want))
    assert ours["num_hidden_layers"] == theirs["num_hidden_layers"]
    if declares_dtype:
        stored = [config.get("dtype", config.get("torch_dtype")) for config in (ours, theirs)]
        assert stored[0] == stored[1]
