"""Every architecture of the zoo through a plan: merged whole, and its main stack cut into slices."""

import json
from pathlib import Path
from typing import Any

import pytest

import eutectic
from eutectic.errors import MismatchError
from eutectic.layout.layout import with_block
from tests.layout.files import model
from tests.layout.zoo import MODELS, build

#: Models with a stack that can be cut, and what config.json calls its length; encoders with decoders have two.
COUNTS = {
    "gpt2": "n_layer",
    "gpt_bigcode": "n_layer",
    "gpt2_classifier": "n_layer",
    "gptj": "n_layer",
    "mpt": "n_layers",
}
COUNTS |= {"gpt2_bare": "n_layer", "bloom": "n_layer", "distilbert": "n_layers", "distilbert_classifier": "n_layers"}
TWO_SIDES = {"t5", "t5_gated", "mt5", "bart", "pegasus", "whisper"}
#: One block is all there is to cut, or the config describes the kinds of blocks by a period or as a nested pattern.
UNCUT = {"albert", "jamba", "gpt_neo"}
CUT = sorted(MODELS.keys() - TWO_SIDES - UNCUT)


def saved(folder: Path, key: str) -> dict[str, Any]:
    """Writes a model of zeros as transformers names it, and returns its config; tied tensors are written once."""
    header, config = build(key)
    kept = {name: (str(spec.dtype), spec.shape) for name, spec in header.items()}
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str))
    model(folder, kept, plain)
    return plain


@pytest.mark.parametrize("key", MODELS)
def test_merged_whole(tmp_path: Path, key: str) -> None:
    """Two models of one architecture fit, and every tensor of both is merged, or copied where it is a buffer."""
    for name in ("a", "b"):
        saved(tmp_path / name, key)
    planned = eutectic.plan({"models": [str(tmp_path / "a"), str(tmp_path / "b")], "method": "linear"}, memory="1 GiB")
    made = {site.spec.name for site in planned.merged} | {each.spec.name for each in planned.copied}
    assert made == build(key)[0].keys()
    assert planned.dropped == ()


@pytest.mark.parametrize("key", CUT)
def test_main_stack_in_slices(tmp_path: Path, key: str) -> None:
    """The first two blocks of one, the last of the other: names are numbered anew, and the config says how many."""
    config = saved(tmp_path / "a", key)
    saved(tmp_path / "b", key)
    stack, blocks = main_stack(key)
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    slices = [
        {"sources": [{"model": first, "blocks": [0, blocks - 1]}]},
        {"sources": [{"model": second, "blocks": [blocks - 1, blocks]}]},
        {"sources": [{"model": first, "blocks": [blocks - 1, blocks]}]},
    ]
    recipe = {"models": [first, second], "method": "passthrough", "slices": slices}
    planned = eutectic.plan(recipe, memory="1 GiB")
    header = build(key)[0]
    inside = [name for name in header if name.startswith(f"{stack}.{blocks - 1}.")]
    made = {site.spec.name for site in planned.merged} | {each.spec.name for each in planned.copied}
    assert made == header.keys() | {with_block(name, stack, blocks) for name in inside}
    (sidecar,) = (each for each in planned.sidecars if each.name == "config.json")
    said = json.loads(sidecar.content or b"{}")
    assert count(said, key) == count(config, key) + 1


def main_stack(key: str) -> tuple[str, int]:
    """The language model's stack, or the only one."""
    stacks = stacks_of(key)
    words = [name for name in stacks if "visual" not in name and "vision" not in name and "merger" not in name]
    stack = words[0] if words else next(iter(stacks))
    return stack, stacks[stack]


def stacks_of(key: str) -> dict[str, int]:
    """Counts blocks by the names themselves: the first number of a name, behind one of a few words."""
    found: dict[str, int] = {}
    for name in build(key)[0]:
        parts = name.split(".")
        at = next((place for place, part in enumerate(parts) if part.isdigit()), None)
        if at and parts[at - 1] in ("layers", "layer", "h", "blocks", "block"):
            stack = ".".join(parts[:at])
            found[stack] = max(found.get(stack, 0), int(parts[at]) + 1)
    return found


def count(config: dict[str, Any], key: str) -> int:
    """The number of blocks that a config states for the language model, or for the only stack."""
    part = config.get("text_config", config)
    number = part["layers_block_type"] if key == "nemotron_h" else part[COUNTS.get(key, "num_hidden_layers")]
    return len(number) if isinstance(number, list) else int(number)


def test_numbers_of_experts(tmp_path: Path) -> None:
    """Different numbers of experts are refused with both numbers, kept one by one or stacked."""
    for kind, names in {
        "apart": {f"model.layers.0.mlp.experts.{n}.up_proj.weight": (8, 4) for n in range(4)},
        "stacked": {"model.layers.0.mlp.experts.up_proj": (4, 8, 4)},
    }.items():
        few = {name: shape for name, shape in names.items() if ".3." not in name and ".2." not in name}
        few = {name: (2, *shape[1:]) if len(shape) == 3 else shape for name, shape in few.items()}
        router = "model.layers.0.mlp.gate.weight"
        names, few = names | {router: (4, 4)}, few | {router: (2, 4)}
        model(tmp_path / f"{kind}4", {name: ("F32", shape) for name, shape in names.items()})
        model(tmp_path / f"{kind}2", {name: ("F32", shape) for name, shape in few.items()})
        recipe = {"models": [str(tmp_path / f"{kind}4"), str(tmp_path / f"{kind}2")], "method": "linear"}
        for policy in ({}, {"missing": "present", "extra": "copy"}):
            with pytest.raises(MismatchError, match=r"different numbers of experts: 4 in .*4, 2 in .*2"):
                eutectic.plan(recipe | policy, memory="1 GiB")


def test_experts_are_merged_one_by_one(tmp_path: Path) -> None:
    """Expert three of one meets expert three of the other; routers too."""
    names = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": ("F32", (8, 4)) for n in range(4)}
    names["model.layers.0.mlp.gate.weight"] = ("F32", (4, 4))
    for each in ("a", "b"):
        model(tmp_path / each, names)
    planned = eutectic.plan({"models": [str(tmp_path / "a"), str(tmp_path / "b")], "method": "linear"}, memory="1 GiB")
    assert {site.spec.name: {feed.name for feed in site.models} for site in planned.merged} == {
        name: {name} for name in names
    }


def test_experts_stacked_in_one_and_apart_in_the_other(tmp_path: Path) -> None:
    """Two ways of storing experts are said to be that, with what to do."""
    apart = {f"model.layers.0.mlp.experts.{n}.up_proj.weight": ("F32", (8, 4)) for n in range(4)}
    model(tmp_path / "apart", apart)
    model(tmp_path / "stacked", {"model.layers.0.mlp.experts.up_proj": ("F32", (4, 8, 4))})
    recipe = {"models": [str(tmp_path / "apart"), str(tmp_path / "stacked")], "method": "linear"}
    with pytest.raises(MismatchError, match=r"keeps its experts stacked in one tensor, .*apart one by one"):
        eutectic.plan(recipe, memory="1 GiB")
