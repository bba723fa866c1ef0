"""Plans over tiny checkpoints given as tensors."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import eutectic
from eutectic.checkpoint.source import Buffer, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.plan.build import build
from eutectic.plan.steps import Copied, Dropped, Merged, Plan
from tests.make.checkpoints import write_model

Tensors = Mapping[str, torch.Tensor]
CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "vocab_size": 6, "tie_word_embeddings": False}

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
NORM = "model.norm.weight"
Q = "model.layers.{}.self_attn.q_proj.weight"


def tensors(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Returns a tiny llama in bfloat16; a change replaces or adds a tensor by a short name, None takes it away."""
    names = {"embedding": EMBEDDING, "head": HEAD, "norm": NORM, "q0": Q.format(0), "q1": Q.format(1)}
    shapes = {"embedding": (6, 4), "q0": (4, 4), "q1": (4, 4), "norm": (4,), "head": (6, 4)}
    found: dict[str, torch.Tensor | None] = {key: torch.ones(shape).bfloat16() for key, shape in shapes.items()}
    found |= changes
    return {names.get(key, key): value for key, value in found.items() if value is not None}


def write(root: Path, name: str, own: Tensors, **config: Any) -> str:
    """Writes one model and returns its path."""
    return str(write_model(root / name, own, CONFIG | config))


def recipe(
    root: Path, base: Tensors | str | None, *models: Tensors | str, method: Any = "linear", **more: Any
) -> eutectic.Recipe:
    """Returns a recipe over models that are written here (`base`, `m0`, `m1` ...) or named by their paths."""
    paths = [each if isinstance(each, str) else write(root, f"m{n}", each) for n, each in enumerate(models)]
    under = base if base is None or isinstance(base, str) else write(root, "base", base)
    return eutectic.merge(
        [{"model": path, "name": Path(path).name} for path in paths], base=under, method=method, **more
    )


class Sealed:
    """A source that can be asked and not read."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        return self._source.header

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        raise AssertionError(f"{name} was read")

    def will_need(self, name: str, start: int, stop: int) -> None:
        raise AssertionError(f"{name} was asked for ahead")

    def read_cost(self, name: str) -> int:
        return self._source.read_cost(name)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def check_unchanged(self) -> None:
        self._source.check_unchanged()

    def close(self) -> None:
        self._source.close()


def plan(asked: eutectic.Recipe, **options: Any) -> Plan:
    """Plans over sources that raise when a tensor is read."""

    def opened(reference: str) -> eutectic.Checkpoint:
        checkpoint = eutectic.open(reference)
        return replace(checkpoint, source=Sealed(checkpoint.source))

    base = opened(asked.base) if asked.base else None
    models = [opened(entry.model) for entry in asked.models if entry.model]
    return build(asked, base, models, version="test", **options)


def merged(of: Plan, name: str) -> Merged:
    """Returns the site of an output tensor."""
    return next(site for site in of.merged if site.spec.name == name)


def copied(of: Plan, name: str) -> Copied:
    """Returns the copy of an output tensor."""
    return next(each for each in of.copied if each.spec.name == name)


def dropped(of: Plan, name: str) -> Dropped:
    """Returns the entry of a tensor that is not written."""
    return next(each for each in of.dropped if each.name == name)
