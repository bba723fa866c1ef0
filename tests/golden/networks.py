"""Cases of methods that look at data: the authors' codes on small networks, whose inputs are part of the case."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import eutectic
from eutectic.stats.gradients import FisherDiagonal
from eutectic.stats.store import Outcome, Store

from .cases import Case, check_equal

Named = Mapping[str, Tensor]


class TinyNet(nn.Module):
    """The network of the cases; its first map is called `first`, as `embed` would be taken for an embedding."""

    def __init__(self, d_in: int, d: int, h: int, classes: int) -> None:
        super().__init__()
        self.first, self.ln = nn.Linear(d_in, d), nn.LayerNorm(d)
        self.fc1, self.fc2, self.head = nn.Linear(d, h), nn.Linear(h, d), nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits of the mean over tokens."""
        z = self.first(x)
        z = z + self.fc2(nn.functional.gelu(self.fc1(self.ln(z))))
        logits: Tensor = self.head(z.mean(1))
        return logits


class Layer(nn.Module):
    """One layer of the stack."""

    def __init__(self, d: int, h: int) -> None:
        super().__init__()
        self.ln, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, h), nn.Linear(h, d)

    def forward(self, x: Tensor) -> Tensor:
        """Returns x plus its feed-forward part."""
        out: Tensor = x + self.fc2(nn.functional.gelu(self.fc1(self.ln(x))))
        return out


class Stack(nn.Module):
    """The stack of RegMean++'s case."""

    def __init__(self, d_in: int, d: int, h: int, layers: int) -> None:
        super().__init__()
        self.embed, self.final_ln = nn.Linear(d_in, d), nn.LayerNorm(d)
        self.layers = nn.ModuleList(Layer(d, h) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the last hidden state."""
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.final_ln(x)
        return out


def knows(case: Case) -> bool:
    """Whether a case is of this family and built."""
    return case.folder.name in RUNNERS


def check(case: Case, tmp_path: Path) -> None:
    """Runs a case."""
    RUNNERS[case.folder.name](*read(case), tmp_path)


def read(case: Case) -> tuple[Mapping[str, Any], Named, Named]:
    """Reads a case: its parameters, what goes in, and what has to come out."""
    facts = json.loads((case.folder / "params.json").read_text())
    inputs, expected = (load_file(case.folder / f"{name}.safetensors") for name in ("inputs", "expected"))
    return facts, inputs, expected


def part(tensors: Named, prefix: str, *, rename: bool = False) -> dict[str, Tensor]:
    """Returns the tensors under a prefix, without it."""
    found = {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
    return {name.replace("embed.", "first.") if rename else name: tensor for name, tensor in found.items()}


def folder(path: Path, tensors: Named) -> str:
    """Writes a model."""
    path.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    return str(path)


def merged(out: Path) -> dict[str, Tensor]:
    """Reads a merge's output."""
    return load_file(out / "model.safetensors")


def compare(got: Named, want: Named, facts: Mapping[str, Any]) -> None:
    """Holds tensors to the case's tolerance, relative to the largest element as well."""
    check_equal(got, want, {"atol": facts["tolerance"], "rtol": facts["tolerance"]})


def plan_and_run(recipe: Any, out: Path, **how: Any) -> dict[str, Tensor]:
    """Merges, and reads the output."""
    eutectic.run(eutectic.plan(recipe, memory="1 GiB", **how), out=out)
    return merged(out)


def tiny(facts: Mapping[str, Any], inputs: Named, k: int) -> TinyNet:
    """Returns one task's network."""
    net = TinyNet(facts["d_in"], facts["d"], facts["h"], facts["C"])
    net.load_state_dict(without_data(part(inputs, f"task{k}", rename=True)))
    return net


def without_data(tensors: Named) -> dict[str, Tensor]:
    """Returns a task's weights without its samples."""
    return {name: tensor for name, tensor in tensors.items() if name not in ("x", "y", "X")}


def batches(facts: Mapping[str, Any], x: Tensor) -> Iterator[Tensor]:
    """Yields batches as the published code takes them: while fewer than `num` samples have been seen before."""
    for start in range(0, min(facts["N"], facts["num"]), facts["bs"]):
        yield x[start : start + facts["bs"]]


def regmean_matrix(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """One map, its bias, and a map that nothing passed through."""
    tasks = [part(inputs, f"task{k}") for k in range(facts["K"])]
    folders, found = [], []
    for k, task in enumerate(tasks):
        net = nn.ModuleDict({"fc": nn.Linear(6, 4)})
        net.fc.load_state_dict(without_data(task))
        net.forward = lambda x, net=net: net["fc"](x)  # type: ignore[method-assign]
        weights = {"fc.weight": task["weight"], "fc.bias": task["bias"], "other.weight": task["weight"].clone()}
        folders.append(folder(tmp_path / f"task{k}", weights))
        found.append(eutectic.statistics(net, [task["X"]], "regmean", store=tmp_path / "store"))
    for alpha in facts["alphas"]:
        recipe = eutectic.merge(folders, method={"regmean": {"alpha": alpha}})
        got = plan_and_run(recipe, tmp_path / f"out{alpha}", statistics=found)
        names = {
            "fc.weight": f"weight.alpha{alpha}",
            "fc.bias": "bias",
            "other.weight": "other_weight_plain_mean",
        }
        compare(got, {name: want[theirs] for name, theirs in names.items()}, facts)


def tiny_recipe(facts: Mapping[str, Any], inputs: Named, method: Any, tmp_path: Path) -> tuple[Any, list[Any]]:
    """Returns a recipe over the tasks' networks with heads kept outside, and the statistics of each."""
    folders, found = [], []
    for k in range(facts["K"]):
        task = part(inputs, f"task{k}", rename=True)
        path = tmp_path / f"task{k}"
        folders.append(str(path) if path.exists() else folder(path, without_data(task)))
        own = list(batches(facts, task["x"]))
        found.append(eutectic.statistics(tiny(facts, inputs, k), own, method, store=tmp_path / "store"))
    return eutectic.merge(folders, method=method, rules=[{"match": "head.*", "keep": folders[0]}]), found


def regmean_model(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A network end to end, its head outside."""
    for alpha in facts["alphas"]:
        recipe, found = tiny_recipe(facts, inputs, {"regmean": {"alpha": alpha}}, tmp_path)
        got = plan_and_run(recipe, tmp_path / f"out{alpha}", statistics=found)
        got = {name: tensor for name, tensor in got.items() if not name.startswith("head.")}
        compare(got, part(want, f"alpha{alpha}", rename=True), facts)


def regmean_pp(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A stack, layer by layer behind the merged ones; the last norm stays the base's, as published."""
    names = ["pretrained", *(f"task{k}" for k in range(facts["K"]))]
    folders = [folder(tmp_path / name, without_data(part(inputs, name))) for name in names]
    for name in names:
        (tmp_path / name / "config.json").write_text("{}")
    data = {}
    for k in range(facts["K"]):
        save_file({"x": inputs[f"task{k}.x"]}, tmp_path / f"data{k}.safetensors")
        data[f"task{k}"] = str(tmp_path / f"data{k}.safetensors")
    recipe = eutectic.merge(
        [{"model": place, "name": name} for place, name in zip(folders[1:], names[1:], strict=True)],
        base=folders[0],
        method={"regmean": {"alpha": facts["alpha"], "prefix": "merged"}},
        rules=[{"match": "final_ln.*", "keep": "base"}],
        calibration={"data": data, "samples": facts["N"], "batch": 8},
    )

    def build(model: object, headless: bool) -> nn.Module:
        with torch.device("meta"):
            return Stack(facts["d_in"], facts["d"], facts["h"], facts["L"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["eutectic.calibrate.run"], "build", build)
        got = plan_and_run(recipe, tmp_path / "out", store=tmp_path / "store")
    compare(got, want, facts)


def fisher_weights(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """The formula alone, on given diagonals."""
    store = Store(tmp_path / "store")
    diagonal = FisherDiagonal("exact")
    folders, found = [], []
    for k in range(facts["K"]):
        folders.append(folder(tmp_path / f"task{k}", part(inputs, f"task{k}")))
        results = store.results({"task": k})
        results.write("rest", {n: Outcome(1, 0, t) for n, t in part(inputs, f"fisher{k}").items()})
        results.finish()
        found.append(eutectic.Statistics({diagonal: results}))
    variants: dict[str, dict[str, Any]] = {
        "norm": {},
        "nonorm": {"normalize": False},
        "norm_coef": {"weight": [0.2, 0.5, 0.3]},
        "nonorm_eps1e-2": {"normalize": False, "floor": 0.01},
    }
    assert set(variants) == set(facts["variants"])
    for name, values in variants.items():
        weights = values.pop("weight", [1.0] * facts["K"])
        models = [{"model": path, "weight": weight} for path, weight in zip(folders, weights, strict=True)]
        recipe = eutectic.merge(models, method={"fisher": values})
        compare(plan_and_run(recipe, tmp_path / name, statistics=found), part(want, name), facts)


def fisher_model(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A network end to end, with the estimate of the published codes; both estimates by themselves."""
    recipe, found = tiny_recipe(facts, inputs, {"fisher": {"kind": "batch"}}, tmp_path)
    got = plan_and_run(recipe, tmp_path / "out", statistics=found)
    got = {name: tensor for name, tensor in got.items() if not name.startswith("head.")}
    compare(got, part(want, "merged", rename=True), facts)
    for kind, theirs in (("batch", "fisher_official"), ("exact", "fisher_textbook")):
        _, estimates = tiny_recipe(facts, inputs, {"fisher": {"kind": kind}}, tmp_path)
        for k, own in enumerate(estimates):
            expected = part(want, f"{theirs}.task{k}", rename=True)
            results = next(iter(own.results.values()))
            compare({name: results.measured(name).load() for name in expected}, expected, facts)


RUNNERS: dict[str, Callable[[Mapping[str, Any], Named, Named, Path], None]] = {
    "fisher_model": fisher_model,
    "fisher_weights": fisher_weights,
    "regmean_matrix": regmean_matrix,
    "regmean_model": regmean_model,
    "regmean_pp": regmean_pp,
}
