"""Results that are not the merged model: the merged delta, each task's mask and rescaler, and its own model."""

import re
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

import eutectic

from .cases import Case, Weights, read_weights

_OF_TASK = re.compile(r"(?P<what>mask|recon|localized)(?:_lam[\d.]+)?_(?:task|t)(?P<task>\d+)")


def read(case: Case, out: Path, tmp_path: Path) -> Weights:
    """Returns the result that a case's output names, from the folder that its recipe made."""
    if case.output == "unified":
        base = read_weights(case.folder / "base.safetensors")
        return {name: value - base[name] for name, value in read_weights(out).items()}
    if case.output == "rescalers":
        files = [load_file(path) for path in sorted((out / "tasks").iterdir())]
        every = [{float(value) for name, value in file.items() if name.endswith(":emr.rescaler")} for file in files]
        assert [len(each) for each in every] == [1] * len(files)  # one number for all tensors of a task
        return {"rescalers": torch.tensor([each.pop() for each in every])}
    found = _OF_TASK.fullmatch(str(case.output))
    if found is None:
        return read_weights(out)
    if found["what"] == "mask":
        shapes = {name: value.shape for name, value in read_weights(out).items()}
        return _masks(out / "tasks" / f"task-{int(found['task']) + 1}.safetensors", shapes)
    recipe = eutectic.specialise(out, int(found["task"]) + 1)
    eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out=tmp_path / "task")
    return read_weights(tmp_path / "task")


def _masks(path: Path, shapes: dict[str, torch.Size]) -> Weights:
    """Reads packed bits with numpy's own unpacking."""
    masks = {}
    for name, packed in load_file(path).items():
        tensor, _, kind = name.rpartition(":")
        if kind.endswith(".mask"):
            bits = np.unpackbits(packed.numpy(), bitorder="little")[: shapes[tensor].numel()]
            masks[tensor] = torch.from_numpy(bits).reshape(shapes[tensor])
    return masks
