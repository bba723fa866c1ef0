"""Methods on factors against their authors' code: adapters as PEFT folders in, updates out.

Where a reference is wrong, the right answer is tested: FedEx on nn.Linear has the case's `ideal_weight_out_in`, and
FedIT's average its formula over all clients (the reference lost all but one).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import eutectic
from eutectic.adapters.factors import Factors
from eutectic.adapters.oft import size_of
from eutectic.calibrate.columns import Columns, Update, learn
from eutectic.diagnose.directions import directions
from eutectic.engine.bases import carried_back
from eutectic.methods import get
from eutectic.methods.site import Coordinates, Site
from eutectic.numerics.draw import Key
from eutectic.search.weights import loss_of
from eutectic.stats.columns import ColumnWeights
from eutectic.stats.store import Measured

from .adapters import PREFIX, Drawn, Tensors
from .cases import Case
from .merging import merge

#: What a reference calls an aggregation, and our scheme.
_FEDERATED = {"stacking": "flora", "zero_padding": "fedavg", "average": "fedavg", "linear": "fedex", "conv1d": "fedex"}


def knows(case: Case) -> bool:
    """Tells whether this is a case of a method on factors."""
    path = case.folder / "params.json"
    return path.is_file() and _chain(json.loads(path.read_text())) is not None


def check(case: Case, tmp_path: Path) -> None:
    """Merges the adapters and holds every update, and merged factors where the method makes them, to the reference."""
    params = json.loads((case.folder / "params.json").read_text())
    given, want = (load_file(case.folder / f"{part}.safetensors") for part in ("inputs", "outputs"))
    if params["method"] == "direction_diagnostics":
        _check_directions(params, given, want)
        return
    if params["method"] == "ziplora":
        _check_columns(params, given, want)
        return
    if params["method"] == "knots" and params["merge_config"]["dare"]:
        _check_masked(params, given, want)
        return
    if params["method"] == "orthomerge":
        _check_rotations(params, given, want, tmp_path)
        return
    folders = _folders(params, given, tmp_path)
    if params["method"] == "lorahub":
        _check_lorahub(params, given, want, folders, tmp_path)
        return
    if params.get("merge_config", {}).get("isotropize"):
        _check_flattened(params, given, want, folders, tmp_path)
        return
    if params["method"] == "fedex_lora":
        _check_fedex(params, given, want, folders, tmp_path)
        return
    if params["method"] == "flora_aggregation":
        made = eutectic.aggregate(folders, params["client_sizes"], _FEDERATED[params["variant"]])  # type: ignore[arg-type]
        eutectic.run(eutectic.plan(made.adapter, memory="1 GiB"), out=tmp_path / "out")
        got = _updates(tmp_path / "out")
        expected = _federated(params, given, want)
    elif params["method"] == "pcb":
        _check_pcb(params, want, folders, tmp_path)
        return
    else:
        recipe = {"models": [str(f) for f in folders], "method": _chain(params)}
        wide = {"rank": 24} if params["method"] == "fullspace_ties" else {}
        got = _updates(merge(recipe | {"output": {"form": "adapter", "dtype": "float32"} | wide}, tmp_path / "out"))
        expected = _expected(params, want)
        if params["method"] == "fullspace_ties":  # of full rank: folded instead
            got = _dense(recipe, given, tmp_path)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        _close(got[name], value, params["tolerance"], name)
    if params["variant"].startswith("paper"):
        recipe["method"] = {"robustmerge": {"variant": "paper", "normalize": False}}
        raw = _updates(merge(recipe | {"output": {"form": "adapter"}}, tmp_path / "raw"))
        for name, value in raw.items():
            _close(value, want[f"delta_nonorm/{name}.weight"], params["tolerance"], name)


def _chain(params: Mapping[str, Any]) -> Any:
    """Returns a recipe's method; None for a case of another kind."""
    config, scale = params.get("merge_config", {}), params.get("scaling_coeffs", 1.0)
    scale = scale[0] if isinstance(scale, list) else scale  # the reference takes the first for all
    share = config.get("topK", 100) / 100
    kind = params.get("method", "")
    if kind in ("flora_aggregation", "fedex_lora", "direction_diagnostics", "orthomerge", "lorahub", "ziplora"):
        return kind
    if kind == "robustmerge":
        return {"robustmerge": {"variant": "paper" if params["variant"].startswith("paper") else "code"}}
    if kind == "pcb":
        return ["factorwise", {"pcb": {"inter": "sum", "clip": 1e-4, "ratio": params["pcb_ratio"], "scale": 1.0}}]
    if kind == "dc_merge":
        return {"dc_merge": {"keep": params["topk_fraction"], "steepest": params["rho"]}}
    voted = {"ties": {"density": share, "scale": scale, "tie": "majority"}}
    if kind in ("knots", "fullspace_ties"):
        last = {"task_arithmetic": {"scale": scale}} if config["merge_method"] == "tv" else voted
        return ["knots", last] if kind == "knots" else last
    if kind.startswith("core_"):
        local = {"ties": {"density": share, "scale": scale, "scope": "tensor"}}
        rules = {"sum": {"task_arithmetic": {"scale": scale}}, "ties": local, "tsv": {"tsv_m": {"scale": scale}}}
        return ["core_space", rules[config["merge_method"]]]
    return None


def _folders(params: Mapping[str, Any], given: Tensors, tmp_path: Path) -> list[Path]:
    """Writes the adapters as PEFT would save them, with the scale that the reference used."""
    found = []
    for at in range(params.get("n_adapters") or params.get("n_clients") or len(params["ranks"])):
        folder = tmp_path / f"adapter{at}"
        folder.mkdir()
        weights = {key.partition("/")[2]: value for key, value in given.items() if key.startswith(f"adapter{at}/")}
        save_file(weights, folder / "adapter_model.safetensors")
        rank = next(value.shape[0] for key, value in weights.items() if "lora_A" in key)
        alpha = params["lora_alpha"] if _scaled(params) else rank
        config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha}
        config["fan_in_fan_out"] = params.get("base_weight_layout") == "[in,out]"
        (folder / "adapter_config.json").write_text(json.dumps(config))
        found.append(folder)
    return found


def _scaled(params: Mapping[str, Any]) -> bool:
    return params["method"] in ("fedex_lora", "lorahub") or params["variant"] == "official-code"


def _updates(folder: Path) -> Tensors:
    """Returns B A by module, of an output that scales by 1."""
    stored = load_file(folder / "adapter_model.safetensors")
    stems = [key.removesuffix(".lora_A.weight") for key in stored if key.endswith(".lora_A.weight")]
    return {
        stem.removeprefix(PREFIX): stored[f"{stem}.lora_B.weight"].double() @ stored[f"{stem}.lora_A.weight"].double()
        for stem in stems
    }


def _dense(recipe: Mapping[str, Any], given: Tensors, tmp_path: Path) -> Tensors:
    """Merges onto a base of zeros, so that the model is the update."""
    base = tmp_path / "zeros"
    base.mkdir()
    zeros = {key.partition("/")[2]: torch.zeros_like(value) for key, value in given.items() if key.startswith("base/")}
    save_file(zeros, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    stored = load_file(merge(dict(recipe) | {"base": str(base)}, tmp_path / "model") / "model.safetensors")
    return {name.removesuffix(".weight"): value for name, value in stored.items()}


def _expected(params: Mapping[str, Any], want: Tensors) -> Tensors:
    if params["variant"] != "official-code":
        keys = [key for key in want if key.startswith("delta/")]
        return {key.removeprefix("delta/").removesuffix(".weight"): want[key] for key in keys}
    found, scale = {}, params["lora_alpha"] / params["rank"]
    for key, a in want.items():
        if key.startswith("merged/") and key.endswith(".lora_A.weight"):
            b = want[key.replace("lora_A", "lora_B")]
            found[key.removeprefix(f"merged/{PREFIX}").removesuffix(".lora_A.weight")] = scale * b.double() @ a.double()
    return found


def _federated(params: Mapping[str, Any], given: Tensors, want: Tensors) -> Tensors:
    """Returns the reference's products; of the one that lost clients, the product of the averages it meant."""
    kind, sizes = "product/", params["client_sizes"]
    names = [key.removeprefix(kind).removesuffix(".weight") for key in want if key.startswith(kind)]
    if params["variant"] != "average":
        return {name: want[f"{kind}{name}.weight"] for name in names}
    shares = [size / sum(sizes) for size in sizes]

    def mean(name: str, letter: str) -> torch.Tensor:
        parts = [given[f"adapter{at}/{PREFIX}{name}.lora_{letter}.weight"].double() for at in range(len(shares))]
        return torch.stack([share * part for share, part in zip(shares, parts, strict=True)]).sum(0)

    return {name: mean(name, "B") @ mean(name, "A") for name in names}


def _check_fedex(params: Mapping[str, Any], given: Tensors, want: Tensors, folders: list[Path], tmp_path: Path) -> None:
    """Holds the adapter to the reference's, and base plus adapter to the exact average."""
    base = tmp_path / "base"
    base.mkdir()
    weights = {key.partition("/")[2]: value for key, value in given.items() if key.startswith("base/")}
    save_file(weights, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    made = eutectic.aggregate(folders, [1] * len(folders), "fedex", base=base)
    assert made.base is not None
    for name, recipe in (("adapter", made.adapter), ("new", made.base)):
        eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out=tmp_path / name)
    ((module, update),) = _updates(tmp_path / "adapter").items()
    scale = params["lora_alpha"] / params["rank"]
    factors = scale * want["merged/lora_B"].double() @ want["merged/lora_A"].double()
    _close(update, factors, params["tolerance"], module)
    new = load_file(tmp_path / "new" / "model.safetensors")[f"{module}.weight"].double()
    transposed = params["base_weight_layout"] == "[in,out]"
    whole = (new.T if transposed else new) + update
    _close(whole, want["ideal_weight_out_in"], params["tolerance"], module)


def _check_lorahub(
    params: Mapping[str, Any], given: Tensors, want: Tensors, folders: list[Path], tmp_path: Path
) -> None:
    """Scores every candidate of the reference's search as it did, and makes the merge that it recommends."""
    base = tmp_path / "base"
    base.mkdir()
    save_file(
        {key.partition("/")[2]: value for key, value in given.items() if key.startswith("base/")},
        base / "model.safetensors",
    )
    (base / "config.json").write_text("{}")

    def recipe(weights: list[float], **more: Any) -> dict[str, Any]:
        models = [{"model": str(path), "weight": weight} for path, weight in zip(folders, weights, strict=True)]
        return {"models": models, "method": ["factorwise", "task_arithmetic"], **more}

    for at, weights in enumerate(given["trace_weights"].tolist()):
        model = load_file(merge(recipe(weights, base=str(base)), tmp_path / f"trial{at}") / "model.safetensors")
        x, out = given["x"], torch.zeros_like(given["y"])
        for layer in range(2):
            q, v = (model[f"layers.{layer}.self_attn.{part}_proj.weight"] for part in "qv")
            x = torch.tanh(x @ q.T)
            out = out + x @ v.T
        loss = float((out - given["y"]).square().mean())
        _close(torch.tensor(loss), want["trace_loss"][at], params["tolerance"], f"loss {at}")
        total = torch.tensor(loss_of(weights, -loss, params["l1_coefficient"]))
        _close(total, want["trace_score"][at], params["tolerance"], f"score {at}")
    weights = want["recommended_weights"].tolist()
    model = load_file(merge(recipe(weights, base=str(base)), tmp_path / "model") / "model.safetensors")
    for name, value in model.items():
        _close(value, want[f"merged/{name}"], params["tolerance"], name)
    output = {"form": "adapter", "dtype": "float32"}
    for name, update in _updates(merge(recipe(weights, output=output), tmp_path / "adapter")).items():
        a, b = (want[f"composed/{PREFIX}{name}.lora_{letter}.weight"].double() for letter in "AB")
        _close(update, params["lora_alpha"] / params["rank"] * b @ a, params["tolerance"], name)


def _check_pcb(params: Mapping[str, Any], want: Tensors, folders: list[Path], tmp_path: Path) -> None:
    """Holds the merged factors themselves to both formulas of the authors."""
    vision = params["vision_script"]
    other = {"inter": "shares", "clip": vision["abs_clamp"], "ratio": vision["att_ratio"], "scale": vision["lam"]}
    for kind, chain in (("merged", _chain(params)), ("merged_vision_script", ["factorwise", {"pcb": other}])):
        recipe = {"models": [str(f) for f in folders], "method": chain, "output": {"form": "adapter"}}
        got = load_file(merge(recipe, tmp_path / kind) / "adapter_model.safetensors")
        assert got.keys() == {key.partition("/")[2] for key in want if key.startswith(f"{kind}/")}
        for name, value in got.items():
            _close(value, want[f"{kind}/{name}"], params["tolerance"], f"{kind} {name}")


def _check_rotations(params: Mapping[str, Any], given: Tensors, want: Tensors, tmp_path: Path) -> None:
    """Holds generators of OFT adapters, and full models merged around their base, to the reference."""
    stored = [given[f"oft{at}/oft_R"] for at in range(params["T"])]
    adapters, key = [], f"{PREFIX}layers.0.x.oft_R.weight"
    size = size_of(stored[0].shape[-1])
    assert size is not None
    (tmp_path / "turned").mkdir()
    turned = {"layers.0.x.weight": torch.zeros(3, size * len(stored[0]))}
    save_file(turned, tmp_path / "turned" / "model.safetensors")
    for at, numbers in enumerate(stored):
        adapters.append(tmp_path / f"oft{at}")
        adapters[-1].mkdir()
        save_file({key: numbers.contiguous()}, adapters[-1] / "adapter_model.safetensors")
        config = {"peft_type": "OFT", "oft_block_size": size, "use_cayley_neumann": False}
        (adapters[-1] / "adapter_config.json").write_text(json.dumps(config))
    joined: dict[str, Any] = {"base": str(tmp_path / "turned"), "models": [str(path) for path in adapters]}
    joined |= {"method": "orthomerge", "output": {"form": "adapter"}}
    made = load_file(merge(joined, tmp_path / "joined") / "adapter_model.safetensors")
    _close(made[key], want["oft_merged"], params["tolerance"], "oft_merged")
    for name in ("base", *(f"expert{at}" for at in range(params["T"]))):
        (tmp_path / name).mkdir()
        weights = {"layers.0.self_attn.q_proj.weight": given[f"{name}/W"].contiguous()}
        save_file(weights, tmp_path / name / "model.safetensors")
    recipe = {
        "base": str(tmp_path / "base"),
        "models": [str(tmp_path / f"expert{at}") for at in range(params["T"])],
        "method": {"orthomerge": {"residual": params["residual_coefficient"]}},
    }
    found = load_file(merge(recipe, tmp_path / "out") / "model.safetensors")
    value = found["layers.0.self_attn.q_proj.weight"]
    _close(value, want["non_oft/W_merged"], params["tolerance"], "W_merged")


def _check_columns(params: Mapping[str, Any], given: Tensors, want: Tensors) -> None:
    """Learns the weights of the reference's network, and merges by them."""
    hyper = params["hyper"]
    maps: dict[str, nn.Linear] = {}
    for key, weight in given.items():
        if key.startswith("base/"):
            name = key.removeprefix("base/").removesuffix(".weight")
            maps[name] = nn.Linear(*reversed(weight.shape), bias=False)
            maps[name].weight = nn.Parameter(weight, requires_grad=False)

    def network(x: Tensor) -> Tensor:
        for block in range(2):
            q, k, v, out = (maps[f"blocks.{block}.to_{part}"] for part in ("q", "k", "v", "out.0"))
            x = x + out(torch.tanh(q(x)) * torch.sigmoid(k(x)) + v(x))
        return x

    def update(model: int, name: str) -> Update:
        stem = f"lora{model + 1}/unet.unet.{name}.lora"
        return Update(given[f"{stem}.up.weight"], given[f"{stem}.down.weight"])

    columns = Columns(maps, {name: [update(model, name) for model in range(2)] for name in maps})
    how = ColumnWeights(hyper["similarity_lambda"], "code", hyper["steps"], hyper["lr"])
    shown = (given["x_content"], given["x_style"])
    with columns.attached():
        losses = learn(columns, lambda model, _: network(shown[model]), 2, how)
    _close(torch.tensor(losses), want["losses_l1_l2_l3_gradnorm"][:, :3], params["tolerance"], "losses")
    for name in maps:
        found = columns.weights[name].detach()
        _close(found, torch.stack([want[f"final/{name}.merger_{at}"] for at in (1, 2)]), params["tolerance"], name)
        deltas = torch.stack([update(at, name).b @ update(at, name).a for at in range(2)])
        measured = {"columns": [Measured.of(each, 6) for each in found]}
        merged = get("ziplora")(Site(name, 2, Key(0, name), measured, deltas, torch.zeros_like(deltas[0]), True))
        _close(merged, want[f"merged_delta/unet.{name}.lora.weight"], params["tolerance"], name)


def _check_masked(params: Mapping[str, Any], given: Tensors, want: Tensors) -> None:
    """Carries KnOTS with DARE and TIES out step by step, since a recipe draws masks of its own."""
    config, n = params["merge_config"], params["n_adapters"]
    density = torch.full((n, 1, 1), 1 - config["dare_pruning_coeffs"])
    for key, expected in want.items():
        name = key.removeprefix("delta/").removesuffix(".weight")
        if not key.startswith("delta/"):
            continue
        stems = [f"adapter{at}/{PREFIX}{name}" for at in range(n)]
        factors = tuple(Factors(given[f"{stem}.lora_B.weight"], given[f"{stem}.lora_A.weight"]) for stem in stems)
        made = get("knots").on_factors(Site(name, n, Key(0, name), {}, updates=factors))
        assert isinstance(made, Coordinates)
        masks = tuple((f"{name}.weight", given[f"dare_mask{at}/{name}"]) for at in range(n))
        zeros = torch.zeros_like(made.values[0])
        site = Site(name, n, Drawn(0, f"{name}:delta", masks=masks), {}, made.values, zeros, True)
        dropped = site.with_deltas(get("dare")(site, density=density))
        scale = params["scaling_coeffs"]
        values = {"density": torch.ones(n, 1, 1), "weight": torch.ones(n, 1, 1), "scale": scale}
        update = carried_back(made, [get("ties")(dropped, **values)])
        assert isinstance(update, Factors)
        _close(update.b @ update.a, expected, params["tolerance"], name)


def _check_flattened(
    params: Mapping[str, Any], given: Tensors, want: Tensors, folders: list[Path], tmp_path: Path
) -> None:
    """Flattens the spectrum of a merge in core space by a stage behind it.

    Iso-C takes the mean over as many singular values as the matrix has rows or columns, the reference over the core's.
    """
    base = tmp_path / "zeros"
    base.mkdir()
    zeros = {key.partition("/")[2]: torch.zeros_like(value) for key, value in given.items() if key.startswith("base/")}
    save_file(zeros, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    core = sum(params["ranks"])
    inner = {"base": str(base), "models": [str(f) for f in folders], "method": ["core_space", "tsv_m"]}
    rules = [{"match": name, "set": {"scale": min(zero.shape) / core}} for name, zero in zeros.items()]
    recipe = {"base": str(base), "models": [{"recipe": inner, "name": "core"}], "method": "iso_c", "rules": rules}
    got = load_file(merge(recipe, tmp_path / "flat") / "model.safetensors")
    for name, value in got.items():
        _close(value, want[f"delta/{name}"], params["tolerance"], name)


def _check_directions(params: Mapping[str, Any], given: Tensors, want: Tensors) -> None:
    """Holds what is measured of every direction of every task to the reference."""
    for key, merged in given.items():
        if not key.startswith("merged_delta/"):
            continue
        name = key.removeprefix("merged_delta/").removesuffix(".weight")
        whole = Factors(merged.double(), torch.eye(merged.shape[1]).double())
        for at in range(params["n_adapters"]):
            stem = f"adapter{at}/{PREFIX}{name}"
            update = Factors(given[f"{stem}.lora_B.weight"], given[f"{stem}.lora_A.weight"])
            found = directions(update, whole)
            parts = {
                "sim_left": found.left,
                "sim_right": found.right,
                "sv_ratio": found.ratio,
                "resp_cos": found.response,
                "resp_ratio": found.response_ratio,
            }
            for part, value in parts.items():
                _close(value, want[f"{part}/task{at}/{name}"], params["tolerance"], f"{part} of {name}")


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: Mapping[str, float], name: str) -> None:
    assert found.shape == expected.shape, f"{name}: {tuple(found.shape)}, expected {tuple(expected.shape)}"
    error, size = (found.double() - expected.double()).abs(), expected.double().abs()
    if "max_abs_error_over_max_abs" in tolerance:
        share = float(error.max() / size.max())
        assert share <= tolerance["max_abs_error_over_max_abs"], f"{name}: off by {share:.3g} of the largest"
        return
    wrong = error > tolerance["atol"] + tolerance["rtol"] * size
    assert not wrong.any(), f"{name}: {int(wrong.sum())} of {wrong.numel()} differ, worst by {float(error.max()):.3g}"
