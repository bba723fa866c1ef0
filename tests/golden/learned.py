"""Cases of what is learned from data: the authors' loops on fixed samples, which a step of ours shows all of."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import eutectic
from eutectic.calibrate import entropy
from eutectic.search.surgery import FeatureAdapter, fit

from .cases import Case, check_equal
from .networks import Named, folder, merged, part, without_data


class Encoder(nn.Module):
    """The network of AdaMerging's case, which ends in hidden states."""

    def __init__(self, d_in: int, d: int, h: int) -> None:
        super().__init__()
        self.embed, self.ln = nn.Linear(d_in, d), nn.LayerNorm(d)
        self.fc1, self.fc2 = nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x: Tensor) -> Tensor:
        """Returns hidden states, (samples, tokens, d)."""
        z = self.embed(x)
        out: Tensor = z + self.fc2(nn.functional.gelu(self.fc1(self.ln(z))))
        return out


def knows(case: Case) -> bool:
    """Whether a case is of this family and built."""
    return case.folder.name in RUNNERS


def check(case: Case, tmp_path: Path) -> None:
    """Runs a case."""
    facts = json.loads((case.folder / "params.json").read_text())
    inputs, expected = (load_file(case.folder / f"{name}.safetensors") for name in ("inputs", "expected"))
    RUNNERS[case.folder.name](facts, inputs, expected, tmp_path)


def adamerging_recipe(facts: Mapping[str, Any], inputs: Named, chain: list[Any], at: Path) -> eutectic.Recipe:
    """The case's networks, samples and heads as files, and a recipe over them."""
    names = [f"task{k}" for k in range(facts["K"])]
    data, heads = {}, {}
    for name in ["pretrained", *names]:
        own = part(inputs, name)
        weights = {key: tensor for key, tensor in without_data(own).items() if not key.startswith("head.")}
        (at / folder(at / name, weights) / "config.json").write_text("{}")
        if name in names:
            data[name], heads[name] = str(at / f"{name}.x.safetensors"), str(at / f"{name}.head.safetensors")
            save_file({"x": own["x"]}, data[name])
            save_file(part(own, "head"), heads[name])
    return eutectic.merge(
        [{"model": str(at / name), "name": name} for name in names],
        base=str(at / "pretrained"),
        method=[*chain, {"task_arithmetic": {"weight": facts["init_lambda"]}}],
        calibration={"data": data, "batch": facts["bs"], "head": {"weights": heads}},
    )


def adamerging(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """Layer-wise and task-wise, and behind TIES: coefficients, losses, and the model that the learned recipe makes."""
    split = [{"trim": {"density": facts["ties_K"] / 100}}, {"elect": {"tie": "majority"}}]

    def build(model: object, headless: bool) -> nn.Module:
        with torch.device("meta"):
            return Encoder(facts["d_in"], facts["d"], facts["h"])

    for variant, by, chain in (
        ("layer", "tensor", []),
        ("layerpp", "tensor", split),
        ("task", "model", []),
        ("taskpp", "model", split),
    ):
        at = tmp_path / variant
        at.mkdir()
        recipe = adamerging_recipe(facts, inputs, chain, at)
        for steps in facts["steps"]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(entropy, "build", build)
                learning = eutectic.plan_learning(
                    recipe, by=by, steps=steps, rate=facts["lr"], batches=2, memory="1 GiB", store=at / "store"
                )
                found = eutectic.learn(learning)
            close = 2e-3 if steps > 10 else 1e-4
            rows = dict(zip(found.labels, found.coefficients, strict=True))
            order = facts["tensor_order"] if by == "tensor" else ["model"]
            got = torch.tensor([rows[label] for label in order])
            raw = want[f"{variant}.lambda_raw.step{steps}"]
            check_equal({"lambda": got}, {"lambda": raw.clamp(*facts["clamp"])}, {"atol": close, "rtol": 0.0})
            loss = float(want[f"{variant}.loss_before_step{steps}"])
            assert found.losses[-1] == pytest.approx(loss, abs=2e-2 if steps > 10 else 1e-4)
        assert found.losses[-1] < found.losses[0]
        eutectic.run(eutectic.plan(found.recipe, memory="1 GiB"), out=at / "out")
        check_equal(merged(at / "out"), part(want, f"{variant}.merged"), {"atol": 2e-3, "rtol": 0.0})


def surgery(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """Adapters from a given start on all features at once: what they are, what they make, how near it comes."""
    for k in range(facts["K"]):
        own = part(inputs, f"task{k}")
        merged_by, expert = own["merged_features"], own["expert_features"]
        start = FeatureAdapter(own["down_init"], torch.zeros(facts["d"], facts["rank"]))
        assert start.distance(merged_by, expert) == pytest.approx(facts["initial_l1"][k], rel=1e-5)
        found = fit(merged_by, expert, start, steps=facts["steps"], batches=1, size=len(expert), rate=facts["lr"])
        assert found.distance(merged_by, expert) == pytest.approx(facts["final_l1"][k], rel=1e-2)
        assert facts["final_l1"][k] < facts["initial_l1"][k]
        saved = eutectic.Surgery({"task": found}, "mean", {"task": (0.0, 0.0)})
        saved.save(tmp_path / f"{k}.safetensors")
        applied = eutectic.Surgery.open(tmp_path / f"{k}.safetensors")(merged_by, "task")
        got = {"features": applied, "down": found.down, "up": found.up}
        check_equal(got, part(want, f"task{k}"), {"atol": 1e-3, "rtol": 0.0})


RUNNERS: dict[str, Callable[[Mapping[str, Any], Named, Named, Path], None]] = {
    "adamerging": adamerging,
    "surgery": surgery,
}
