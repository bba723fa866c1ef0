"""Cases of methods that look for conflicts between tasks, in layers' inputs or gradients: LOT, CAT, TATR."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import eutectic
from eutectic.methods import get
from eutectic.methods.site import Site
from eutectic.numerics.draw import Key
from eutectic.stats.store import Measured

from .cases import Case
from .networks import Named, TinyNet, compare, folder, part, plan_and_run, read, tiny, without_data


def knows(case: Case) -> bool:
    """Whether a case is of these methods."""
    return case.folder.name in RUNNERS


def check(case: Case, tmp_path: Path) -> None:
    """Runs a case."""
    RUNNERS[case.folder.name](*read(case), tmp_path)


def lot_linear(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """One map in float64, whose rows determine all of it or only a part."""
    tasks = [part(inputs, f"task{k}") for k in range(facts["K"])]
    grams = tuple(Measured.of(task["X"].T @ task["X"], len(task["X"])) for task in tasks)
    deltas = torch.stack([task["T"] for task in tasks])
    base = inputs["W0"]
    site = Site("w", len(tasks), Key(0, "w"), {"gram": grams}, deltas, base, are_deltas=True)
    merge, ones = get("lot"), site.column([1.0] * len(tasks))
    scaled = merge(site, scale=facts["lambda"], rcond=1e-10, weight=ones)
    found = merge(site, scale=1.0, rcond=1e-10, weight=ones) - base
    objective = sum((task["X"] @ (found - task["T"]).T).square().sum() for task in tasks)
    got = {"merged": scaled, "T_opt": found, "objective": torch.as_tensor(objective)}
    compare(got, {name: want[name] for name in got}, facts)


def lot_scale_bias(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A norm's scale, one of whose channels never fires, and a shift by both of its means."""
    tasks = [part(inputs, f"task{k}") for k in range(facts["K"])]
    deltas = torch.stack([task["T"] for task in tasks])
    merge, got = get("lot"), {}
    for name, theirs, weight in (
        ("norm.weight", "scale_opt", [1.0] * len(tasks)),
        ("norm.bias", "bias_opt_plain_mean", [1.0] * len(tasks)),
        ("norm.bias", "bias_opt_sample_weighted", [float(n) for n in facts["ns"]]),
    ):
        site = Site(name, len(tasks), Key(0, name), scales_of(tasks), deltas, torch.zeros_like(deltas[0]), True)
        got[theirs] = merge(site, scale=1.0, rcond=0.0, weight=site.column(weight))
    compare(got, want, facts)


def scales_of(tasks: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Returns what calibration finds at the scale of a norm, in float64."""
    rows = [task["X_normalized"] for task in tasks]
    found = (Measured.of(torch.stack([x.sum(0), x.square().sum(0)]), len(x), 0) for x in rows)
    return {"scales": tuple(found)}


def cat_linear(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """One map in float64, in three variants: what is left of every task, and its sum around the base."""
    tasks = [part(inputs, f"task{k}") for k in range(facts["K"])]
    grams = tuple(Measured.of(task["X"].T @ task["X"], len(task["X"])) for task in tasks)
    site = Site("w", len(tasks), Key(0, "w"), {"gram": grams}, torch.stack([t["T"] for t in tasks]), inputs["W0"], True)
    variants: dict[str, dict[str, Any]] = {
        "paper": {},
        "positive_only": {"positive_only": True},
        "norm_preserving": {"preserve_norm": True},
    }
    assert set(variants) == set(facts["variants"])
    for name, values in variants.items():
        left = trimmed(site, facts, values)
        got = {f"T{k}": left[k] for k in range(len(tasks))}
        compare({**got, "merged": inputs["W0"] + facts["alpha"] * left.sum(0)}, part(want, name), facts)
    left = trimmed(site, facts, {})
    last = want[f"task{len(tasks) - 1}.projector"]  # trimmed for last, so nothing of the others is left along it
    assert all(torch.allclose(last @ move, torch.zeros_like(move), atol=facts["tolerance"]) for move in left[:-1])


def cat_scale_shift(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A norm's scale by sums and by means, and a shift: what is left, and where zeroes are."""
    tasks = [part(inputs, f"task{k}") for k in range(facts["K"])]
    n, base = len(tasks), inputs["W0_scale"]
    moves = {what: torch.stack([task[f"T_{what}"] for task in tasks]) for what in ("scale", "shift")}
    for scores in ("sum", "mean"):
        site = Site("norm.weight", n, Key(0, "w"), scales_of(tasks), moves["scale"], base, True)
        left = trimmed(site, facts, {"scores": scores})
        got = {**{f"T{k}": left[k] for k in range(n)}, "merged_alpha0.5": base + 0.5 * left.sum(0)}
        expected = part(want, f"scale.{scores}")
        compare(got, {name: expected[name] for name in got}, facts)
        zeroed(left, moves["scale"], [expected[f"task{k}.remove_mask"] for k in range(n)])
    site = Site("norm.bias", n, Key(0, "w"), {}, moves["shift"], base, True)
    left, expected = trimmed(site, facts, {}), part(want, "shift")
    compare({f"T{k}": left[k] for k in range(n)}, {f"T{k}": expected[f"T{k}"] for k in range(n)}, facts)
    zeroed(left, moves["shift"], [expected[f"task{k}.remove_mask"] for k in range(n)])


def trimmed(site: Site, facts: Mapping[str, Any], values: Mapping[str, Any]) -> Tensor:
    """Returns what CAT leaves of the movements, its parameters the case's."""
    own = {"directions": facts["c"], "balance": facts.get("lambda", facts.get("cat_lambda"))}
    plain: dict[str, Any] = {"positive_only": False, "preserve_norm": False, "scores": "sum"}
    left: Tensor = get("cat")(site, **{**plain, **own, **values})
    return left


def zeroed(left: Tensor, moves: Tensor, masks: Sequence[Tensor]) -> None:
    """Holds that a movement is 0 where the masks of the other tasks are 1, and untouched elsewhere."""
    for i, move in enumerate(moves):
        gone = torch.stack([mask for k, mask in enumerate(masks) if k != i]).sum(0) > 0
        assert torch.equal(left[i], move * ~gone)


def catlot_model(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A network end to end, its head outside. The store keeps float32, which bounds how near its merge can come.

    Then every tensor by itself, from sums of its own rows in float64.
    """
    names = ["pretrained", *(f"task{k}" for k in range(facts["K"]))]
    weights = [without_data(part(inputs, name, rename=True)) for name in names]
    folders = [folder(tmp_path / name, own) for name, own in zip(names, weights, strict=True)]
    cat_step = {"directions": facts["c"], "balance": facts["cat_lambda"]}
    chains: dict[str, Any] = {
        "cat": [{"cat": cat_step}, {"task_arithmetic": {"scale": facts["alpha"]}}],
        "lot": {"lot": {"scale": facts["lot_lambda"]}},
    }
    rows = [activations(facts, inputs, k) for k in range(facts["K"])]
    for kind, chain in chains.items():
        found = []
        for k in range(facts["K"]):
            own = [inputs[f"task{k}.x"]]
            found.append(eutectic.statistics(tiny(facts, inputs, k).double(), own, chain, store=tmp_path / "store"))
        recipe = eutectic.merge(folders[1:], base=folders[0], method=chain, rules=[{"match": "head.*", "keep": "base"}])
        got = plan_and_run(recipe, tmp_path / kind, statistics=found)
        expected = part(want, kind, rename=True)
        compare({name: got[name] for name in expected}, expected, {"tolerance": 1e-5})
        exact = {}
        for name in expected:
            moves = torch.stack([own[name] - weights[0][name] for own in weights[1:]])
            results: dict[str, Any] = {}
            if moves.dim() == 3:
                results["gram"] = tuple(Measured.of(x[name].T @ x[name], len(x[name])) for x in rows)
            elif name == "ln.weight":
                results = scales_of([{"X_normalized": x[name]} for x in rows])
            site = Site(name, facts["K"], Key(0, name), results, moves, weights[0][name], True)
            if kind == "lot":
                ones = site.column([1.0] * facts["K"])
                exact[name] = get("lot")(site, scale=facts["lot_lambda"], rcond=1e-12, weight=ones)
            else:
                left = trimmed(site, facts, cat_step)
                exact[name] = weights[0][name] + facts["alpha"] * left.sum(0)
        compare(exact, expected, facts)


def activations(facts: Mapping[str, Any], inputs: Named, k: int) -> dict[str, Tensor]:
    """Returns what a task's own network multiplies each of its tensors with, on the task's own samples."""
    net = tiny(facts, inputs, k).double()
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0].reshape(-1, given[0].shape[-1])
            plain = nn.functional.layer_norm(rows, rows.shape[-1:]) if isinstance(layer, nn.LayerNorm) else rows
            found[f"{name}.weight"] = plain.detach()

        layer.register_forward_pre_hook(hook)

    for name, layer in net.named_children():
        watch(name, layer)
    with torch.no_grad():
        net(inputs[f"task{k}.x"])
    return found


def tatr_zero_shot(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """A network whose mask needs no data: every parameter counts, and the sum of what is left is added."""
    names = ["pretrained", *(f"task{k}" for k in range(facts["K"]))]
    folders = [folder(tmp_path / name, without_data(part(inputs, name, rename=True))) for name in names]
    for quantile in facts["quantiles"]:
        chain = [{"tatr": {"ratio": 1 - quantile}}, {"task_arithmetic": {"scale": facts["lam"]}}]
        recipe = eutectic.merge(folders[1:], base=folders[0], method=chain)
        expected = part(want, f"q{quantile}", rename=True)
        got = plan_and_run(recipe, tmp_path / f"out{quantile}")
        compare(got, {name: tensor for name, tensor in expected.items() if name in got}, facts)


def tatr_grad(facts: Mapping[str, Any], inputs: Named, want: Named, tmp_path: Path) -> None:
    """Gradients of each task's own samples at the base, and the mask that they make with the task vectors."""
    names = ["pretrained", *(f"task{k}" for k in range(facts["K"]))]
    weights = [without_data(part(inputs, name, rename=True)) for name in names]
    folders = [folder(tmp_path / name, own) for name, own in zip(names, weights, strict=True)]
    order = [name.replace("embed.", "first.") for name in facts["sorted_param_names"]]
    base = TinyNet(facts["d_in"], facts["d"], facts["h"], facts["C"])
    base.load_state_dict(weights[0])

    def chain(tau: float) -> list[dict[str, Any]]:
        return [
            {"tatr": {"ratio": tau, "sensitivity": "gradients"}},
            {"task_arithmetic": {"scale": facts["lam"]}},
        ]

    found = []
    for k in range(facts["K"]):
        task = part(inputs, f"task{k}")
        rows = (task[n][: facts["max_samples"]].split(facts["bs"]) for n in ("x", "y"))
        own = [{"x": x, "labels": y} for x, y in zip(*rows, strict=True)]
        found.append(eutectic.statistics(base, own, chain(0.01), store=tmp_path / "store"))
        results = next(iter(found[-1].results.values()))
        gradients = torch.cat([results.measured(name).load().reshape(-1) for name in order])
        compare({"gradients": gradients}, {"gradients": want[f"task{k}.avg_abs_grad"]}, facts)
    for tau in facts["taus"]:
        recipe = eutectic.merge(folders[1:], base=folders[0], method=chain(tau))
        got = plan_and_run(recipe, tmp_path / f"out{tau}", statistics=found)
        merged_ = torch.cat([got[name].reshape(-1) for name in order])
        compare({"merged": merged_}, {"merged": want[f"tau{tau}.merged"]}, facts)
        assert int((merged_ != torch.cat([weights[0][n].reshape(-1) for n in order])).sum()) == want[f"tau{tau}.kept"]


RUNNERS: dict[str, Callable[[Mapping[str, Any], Named, Named, Path], None]] = {
    "cat_linear": cat_linear,
    "cat_scale_shift": cat_scale_shift,
    "catlot_model": catlot_model,
    "lot_linear_fullrank": lot_linear,
    "lot_linear_rankdef": lot_linear,
    "lot_scale_bias": lot_scale_bias,
    "tatr_grad": tatr_grad,
    "tatr_zero_shot": tatr_zero_shot,
}
