"""The `mk_*` cases: mergekit's own `config.yml` and flags, through the dialect, in the folder mergekit ran in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

import eutectic

from .cases import Case, check_config, check_equal, read_weights
from .draws import check_invariants


def knows(case: Case) -> bool:
    """Tells whether this is a run of mergekit's."""
    return (case.folder / "config.yml").is_file()


def check(case: Case, tmp_path: Path) -> None:
    """Merges by the case's own file, and holds the result against mergekit's, its refusal, or a draw's invariants."""
    facts, out = case.facts, tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(case.folder)
        if facts["expect"] == "error":
            with pytest.raises(eutectic.EutecticError) as refused:
                merge(facts["cli_args"], out)
            assert str(refused.value)
            assert not out.exists()
            return
        merge(facts["cli_args"], out)
    config = read_config(case.folder)
    if facts["expect"] == "random":
        base, expert = (case.folder / name for name in (config["base_model"], _experts(config)[0]["model"]))
        check_invariants(facts["invariants"], *map(read_weights, (base, expert, out)))
        return
    want = case.folder / "output"
    tolerance = facts.get("compare_if_fp32_accumulate", facts["compare"])
    skip = threshold_ties(case.folder) if facts["compare"].get("mode") == "skip_threshold_ties" else None
    check_equal(read_weights(out), read_weights(want), tolerance, skip)
    check_config(out, want, bool(config.get("dtype") or config.get("out_dtype")))
    if "--out-shard-size" in facts["cli_args"]:
        index = json.loads((out / "model.safetensors.index.json").read_text())
        assert index["weight_map"].keys() == read_weights(want).keys()


def merge(flags: list[str], out: Path) -> None:
    """Merges by `config.yml` in the working directory."""
    eutectic.run(eutectic.plan(eutectic.read("config.yml", flags=flags), memory="1 GiB"), out=out)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the file as plain data, with another reader than ours."""
    data: dict[str, Any] = YAML(typ="safe").load((folder / "config.yml").read_text())
    return data


def _experts(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in config["models"] if entry["model"] != config["base_model"]]


def threshold_ties(folder: Path) -> dict[str, torch.Tensor]:
    """Marks where some expert's |delta|, computed in bf16, equals the k-th largest of its tensor.

    Which of the equal ones survive depends on the reference's unstable sort.
    """
    config = read_config(folder)
    base = read_weights(folder / config["base_model"])
    marks = {name: torch.zeros(weight.shape, dtype=torch.bool) for name, weight in base.items()}
    for entry in _experts(config):
        for name, weight in read_weights(folder / entry["model"]).items():
            size = (weight.bfloat16() - base[name].bfloat16()).abs()
            count = max(1, int(entry["parameters"]["density"] * size.numel()))
            marks[name] |= size == size.flatten().float().topk(count).values[-1].bfloat16()
    return marks
