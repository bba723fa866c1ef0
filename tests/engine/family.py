"""A small family of models on disk (a base, fine-tunes, odd relatives, an adapter), and ways to merge and compare it.

One tensor has more than 64 * 65,536 elements, so that quantiles are guessed from a sample first; one is larger than a
slice; the rest are small, of one, two and no axes, or empty.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import eutectic
from tests.make.adapters import factors, write_adapter
from tests.make.checkpoints import write_model

BIG = "model.layers.1.mlp.up_proj.weight"
MEDIUM = "model.layers.2.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
BUFFER = "model.position_ids"
NORM = "model.norm.weight"
QUERY = "model.layers.{}.self_attn.q_proj.weight"
CONFIG = {
    "model_type": "llama",
    "tie_word_embeddings": True,
    "vocab_size": 100,
    "num_hidden_layers": 4,
    "torch_dtype": "bfloat16",
}

Tensors = dict[str, torch.Tensor]


def base_tensors(big: bool) -> Tensors:
    """Returns the base's tensors in float32; without `big`, the largest takes one slice of eleven grains."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    tensors = {EMBEDDING: normal(100, 16)}
    for block in range(4):
        tensors[QUERY.format(block)] = normal(48, 40)
        tensors[f"model.layers.{block}.input_layernorm.weight"] = normal(40)
    tensors[BIG] = normal(2056, 2048) if big else normal(70, 1000)
    tensors[MEDIUM] = normal(700, 1000)
    tensors[NORM] = normal(16)
    tensors["model.gate.scale"] = torch.tensor(0.5)
    tensors["model.nothing"] = torch.zeros(16, 0)
    return tensors


def tuned(tensors: Tensors, seed: int) -> Tensors:
    """Returns a fine-tune: every tensor moved a little, a third of the elements not at all."""
    draw = torch.Generator().manual_seed(seed)
    moved = {}
    for name, value in tensors.items():
        noise = torch.randn(value.shape, generator=draw)
        moved[name] = value + 0.05 * noise * (noise.abs() > 0.43)
    return moved


def write(folder: Path, tensors: Tensors, dtype: torch.dtype = torch.bfloat16, shards: int = 1, **config: Any) -> Path:
    """Writes one member with the buffer all members share."""
    ready = {name: value.to(dtype) for name, value in tensors.items()}
    ready[BUFFER] = torch.arange(32).reshape(1, 32)
    return write_model(folder, ready, CONFIG | config, shards)


def write_family(root: Path, *, big: bool) -> Path:
    """Writes `base`, `code`, `maths`, `chat`; without `big` also the odd relatives that policies are for.

    `half` (float16), `full` (float32), `double` (float64), `long` (more tokens), `short` (fewer), `lean` (lacks a
    tensor), `rich` (has one more), `twice` (stores its tied head), `moved` (another buffer), `adapter` (LoRA).
    """
    base = base_tensors(big)
    write(root / "base", base)
    for seed, name in enumerate(("code", "maths", "chat"), start=2):
        write(root / name, tuned(base, seed), shards=2 if name == "maths" else 1)
    if big:
        return root
    write(root / "half", tuned(base, 12), torch.float16)
    write(root / "full", tuned(base, 13), torch.float32)
    write(root / "double", tuned(base, 14), torch.float64)
    write(
        root / "long", tuned(base | {EMBEDDING: torch.cat([base[EMBEDDING], base[EMBEDDING][:7]])}, 15), vocab_size=107
    )
    write(root / "short", tuned(base | {EMBEDDING: base[EMBEDDING][:90]}, 16), vocab_size=90)
    write(root / "lean", {k: v for k, v in tuned(base, 17).items() if k != QUERY.format(2)})
    write(root / "rich", tuned(base, 18) | {"model.extra.weight": base[NORM] + 1})
    twice = tuned(base, 19)
    write(root / "twice", twice | {HEAD: twice[EMBEDDING]})
    moved = write(root / "moved", tuned(base, 20))
    other = {name: value.bfloat16() for name, value in tuned(base, 20).items()}
    write_model(moved, other | {BUFFER: torch.arange(32).reshape(1, 32) + 1}, CONFIG)
    q0, q3 = (factors(QUERY.format(b).removesuffix(".weight"), 48, 40, seed=30 + b) for b in (0, 3))
    write_adapter(root / "adapter", q0 | q3, target_modules=["q_proj"])
    return root


def recipes(root: Path, *, big: bool) -> dict[str, dict[str, Any]]:
    """Returns recipes over a family, by what they cover."""

    def of(*names: str, method: Any, base: bool = True, **more: Any) -> dict[str, Any]:
        models = [{"model": str(root / name), "name": name} for name in names]
        return {**({"base": str(root / "base")} if base else {}), "models": models, "method": method, **more}

    three = ("code", "maths", "chat")
    weights = {"weight": [0.2, 0.9]}
    if big:
        return {
            "linear": of(*three, method={"linear": weights}, base=False),
            "task_arithmetic": of(*three, method={"task_arithmetic": {"weight": -0.4}}),
            "ties model": of(*three, method={"ties": {"density": 0.2, "scope": "model", "tie": "majority"}}),
            "ties tensor": of(
                *three, method={"ties": {"density": 0.3, "scope": "tensor"}}, output={"shard_size": "5MB"}
            ),
            "dare, ties": of(*three, method=[{"dare": {"density": 0.5}}, {"ties": {"density": 0.6}}], seed=7),
            "dare l1": of(*three, method=[{"dare": {"density": 0.5, "rescale": "l1"}}, "task_arithmetic"]),
            "trim l1": of(*three, method=[{"trim": {"density": 0.3, "rescale": "l1"}}, "task_arithmetic"]),
            "slerp": of("code", "maths", method={"slerp": {"t": [0.1, 0.8]}}, base=False),
            "model_stock": of(*three, method={"model_stock": {"angle": "angle"}}),
            "nan model": of(*three, method={"task_arithmetic": {"weight": {"nan": {"of": "delta", "per": "model"}}}}),
            "nan tensor": of(*three, method={"linear": {"weight": {"nan": {"of": "finetuned", "per": "tensor"}}}}),
            "float64": of("code", "maths", method={"ties": {"density": 0.5}}, dtype="float64"),
            "emr": of(*three, method="emr", output={"shard_size": "5MB"}),
            "tall ties": of(*three, method={"tall_masks": {"threshold": [0.2, 0.6], "vector": "ties"}}),
            "consensus": of(*three, method="consensus"),
        }
    stage = of("code", "maths", method={"ties": {"density": 0.4}})
    rows = {"model_stock": {"rows": True}}
    cut = [{"model": "code", "blocks": [0, 3]}], [{"model": "maths", "blocks": [1, 4]}]
    mixed = [{"model": "code", "blocks": [2, 3], "weight": 0.7}, {"model": "maths", "blocks": [2, 3]}]
    return {
        "rows": of(*three, method=rows),
        "dare l1, rows": of(*three, method=[{"dare": {"density": 0.5, "rescale": "l1"}}, rows]),
        "trim l1, rows": of(*three, method=[{"trim": {"density": 0.5, "rescale": "l1"}}, rows]),
        "trim, dare, ties": of(*three, method=[
            {"trim": {"density": 0.8}}, {"dare": {"density": 0.5}}, {"ties": {"density": 0.5, "scope": "tensor"}},
        ]),
        "rules": of(*three, method={"ties": {"density": 0.5}}, rules=[
            {"match": "*q_proj*", "set": {"density": 0.9, "weight": 0.3}},
            {"match": NORM, "keep": "maths"},
            {"match": EMBEDDING, "method": "linear"},
        ]),
        "slices": of("code", "maths", method="passthrough", base=False, slices=[{"sources": each} for each in cut]),
        "slices merged": of("code", "maths", method="linear", base=False, slices=[{"sources": mixed}]),
        "stage": {"base": str(root / "base"), "method": [{"dare": {"density": 0.7}}, "task_arithmetic"],
                  "models": [{"recipe": stage, "weight": 0.5}, {"model": str(root / "chat")}]},
        "stage of rows": {"base": str(root / "base"), "method": {"ties": {"density": 0.5}},
                          "models": [{"recipe": of(*three, method=rows)}, {"model": str(root / "chat")}]},
        "adapter": of("code", "adapter", method={"ties": {"density": 0.5, "scope": "tensor"}}),
        "base+adapter": {"models": [f"{root / 'base'}+{root / 'adapter'}", str(root / "code")], "method": "linear"},
        "mixed dtypes": of("code", "half", "full", method=[{"dare": {"density": 0.5}}, {"ties": {"density": 0.5}}]),
        "double among them": of("code", "double", method={"ties": {"density": 0.5}}, output={"dtype": "float32"}),
        "to float16": of(*three, method="linear", output={"dtype": "float16", "shard_size": "200kB"}),
        "truncate": of("code", "long", "short", method={"ties": {"density": 0.5}}, vocabulary="truncate"),
        "base rows": of("code", "short", method={"ties": {"density": 0.5}}, vocabulary="base"),
        "missing: base": of("code", "lean", method={"ties": {"density": 0.5}}, missing="base"),
        "missing: present": of("code", "lean", method={"ties": {"density": 0.5, "scope": "tensor"}}, missing="present"),
        "extra: copy": of("code", "rich", method="task_arithmetic", extra="copy"),
        "extra: drop": of("code", "rich", method="task_arithmetic", extra="drop"),
        "trim, emr": of(*three, method=[{"trim": {"density": 0.5, "scope": "tensor"}}, {"emr": {"rescale": "sum"}}]),
        "stage of emr": {"base": str(root / "base"), "method": "task_arithmetic",
                         "models": [{"recipe": of("code", "maths", method="emr")}, {"model": str(root / "chat")}]},
        "tsv_c": of(*three, method=[{"trim": {"density": 0.5, "scope": "tensor"}}, "tsv_c"]),
        "emr of some": of(*three, method="emr", rules=[
            {"match": "*q_proj*", "method": "linear"}, {"match": NORM, "keep": "maths"},
        ]),
        "masks of adapters": of("code", "adapter", method="tall_masks"),
        "masks of mixed dtypes": of("code", "half", "full", method=[{"dare": {"density": 0.5}}, "tall_masks"]),
        "masks of present": of("code", "lean", method="tall_masks", missing="present"),
        "dare, consensus ties": of(*three, method=[{"dare": {"density": 0.5}}, {"consensus": {"vector": "ties"}}]),
        "buffers: base": of("code", "moved", method="task_arithmetic", buffers="base"),
        "tied": of("code", "twice", method="task_arithmetic"),
    }  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    """Returns the sha256 of every weight file and its index, and of what was made for each task."""
    files = sorted(folder.rglob("*.safetensors*"))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def least(recipe: Mapping[str, Any], threads: int | None = None) -> int:
    """Returns the smallest budget that plans, as the refusal of a smaller one names it."""
    try:
        eutectic.plan(recipe, memory=1, threads=threads)
    except eutectic.OverBudget as error:
        return error.needed
    raise AssertionError("a budget of one byte was accepted")


def scheduled(plan: eutectic.Plan, **changes: Any) -> eutectic.Plan:
    """Returns the plan with another schedule, which must not matter to a byte."""
    return replace(plan, schedule=replace(plan.schedule, **changes))


class Stop(Exception):
    """Raised by an observer to stop a run half-way."""


class StopAfter:
    """An observer that stops the run once a share of its reads is done."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, event: object) -> None:
        if getattr(event, "read", 0) > self.share * getattr(event, "total", 0):
            raise Stop


def run(
    recipe: Mapping[str, Any] | eutectic.Plan, out: Path, watch: Sequence[Any] = (), **options: Any
) -> dict[str, str]:
    """Plans with `options`, runs, and returns the digests of the weight files."""
    plan = recipe if isinstance(recipe, eutectic.Plan) else eutectic.plan(recipe, **options)
    try:
        eutectic.run(plan, out, watch=watch)
    finally:
        for checkpoint in plan.inputs:
            checkpoint.source.close()
    return digests(out)
