"""Matrix methods against their authors' way: CPU seconds, and the error of both against float64.

    python -m benchmarks.matrices --blocks 2
    python -m benchmarks.matrices --blocks 2 --port /tmp/fusion/bin/python

Eight experts of the vision tower of CLIP ViT-B/32 (width 768, MLP 3072): per block four matrices of 768 x 768 and two
of 768 x 3072, float32. The deltas are synthetic: full rank, each the sum of a part all experts share and one of its
own, with singular values that fall like a power of their rank. The authors' way (`authors_way.py`) is timed without
loading and writing; eutectic's time is all of its run, from the first byte read to the rename. With `--port` the
authors' way is fusion_bench's own code, called by that interpreter. Blocks and WUDI's steps cost each the same, so few
tell as much.
The exact result is computed here with full SVDs, or the closed gradient, in float64; errors are relative to the merged
delta in the Euclidean norm over all matrices.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks import measure
from benchmarks.make_models import DEFAULT_OUT

METHODS = ("tsv_m", "iso_c", "wudi")
Tensors = dict[str, torch.Tensor]


def shapes(blocks: int, width: int, inner: int) -> dict[str, tuple[int, int]]:
    """Returns every matrix of so many blocks under its name in transformers."""
    block = {f"self_attn.{name}_proj": (width, width) for name in ("k", "v", "q", "out")}
    block |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    return {
        f"vision_model.encoder.layers.{at}.{name}.weight": shape
        for at in range(blocks)
        for name, shape in block.items()
    }


def spectral(shape: tuple[int, int], power: float, source: torch.Generator) -> torch.Tensor:
    """Draws a full-rank matrix whose i-th singular value is i^-power, of spread 1 in all."""
    count = min(shape)
    u, v = (torch.linalg.qr(torch.randn(side, count, generator=source)).Q for side in shape)
    made = (u * torch.arange(1, count + 1) ** -power) @ v.T
    return made / made.std()


def write_models(folder: Path, options: argparse.Namespace) -> tuple[Path, list[Path]]:
    """Writes the base and the experts; their deltas have a spread of 3e-4."""
    source = torch.Generator().manual_seed(0)
    wanted = shapes(options.blocks, options.width, options.inner)
    base = {name: 0.02 * torch.randn(shape, generator=source) for name, shape in wanted.items()}
    common = {name: spectral(shape, options.power, source) for name, shape in wanted.items()}
    paths = [folder / "base.safetensors"]
    save_file(base, paths[0])
    for at in range(options.experts):
        own = {name: spectral(shape, options.power, source) for name, shape in wanted.items()}
        paths.append(folder / f"expert{at}.safetensors")
        save_file({name: base[name] + 2e-4 * (common[name] + own[name]) for name in wanted}, paths[-1])
    return paths[0], paths[1:]


def exact_tsv_m(deltas: torch.Tensor, _: int) -> torch.Tensor:
    """Algorithm 1 with full SVDs."""
    kept = min(deltas.shape[1:]) // len(deltas)
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u = torch.cat([part.U[:, :kept] for part in parts], 1)
    v = torch.cat([part.Vh[:kept].T for part in parts], 1)
    left, right = (torch.linalg.svd(each, full_matrices=False) for each in (u, v))
    return (left.U @ left.Vh * torch.cat([part.S[:kept] for part in parts])) @ (right.U @ right.Vh).T


def exact_iso_c(deltas: torch.Tensor, _: int) -> torch.Tensor:
    """The sum with all singular values at their mean."""
    u, s, vh = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    return s.mean() * (u @ vh)


def exact_wudi(deltas: torch.Tensor, steps: int) -> torch.Tensor:
    """Torch's Adam on the closed gradient."""
    sizes = deltas.square().sum((1, 2))[:, None, None]
    inner = (deltas.transpose(1, 2) @ deltas / sizes).sum(0)
    target = (deltas @ deltas.transpose(1, 2) @ deltas / sizes).sum(0)
    merged = deltas.sum(0).requires_grad_()
    optimizer = torch.optim.Adam([merged], lr=1e-5)
    for _ in range(steps):
        merged.grad = 2 * (merged.detach() @ inner - target)
        optimizer.step()
    return merged.detach()


EXACT: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "tsv_m": exact_tsv_m,
    "iso_c": exact_iso_c,
    "wudi": exact_wudi,
}


def error(merged: Tensors, base: Tensors, exact: Tensors) -> float:
    """Returns the relative error of merged deltas."""
    off = sum(float((merged[name].double() - base[name].double() - exact[name]).square().sum()) for name in exact)
    return (off / sum(float(value.square().sum()) for value in exact.values())) ** 0.5


def measure_method(method: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Merges both ways in turns, and exactly."""
    base, experts = work / "base.safetensors", [work / f"expert{at}.safetensors" for at in range(options.experts)]
    own: dict[str, Any] = {"tensors": "matrices"} | ({"steps": options.steps} if method == "wudi" else {})
    recipe = {"base": str(base), "models": [str(path) for path in experts], "method": {method: own}}
    turns = []
    theirs = work / "theirs.safetensors"
    program = [options.port or sys.executable, "benchmarks/authors_way.py", method, base, *experts]
    program += ["--out", theirs, "--steps", options.steps, "--threads", options.threads]
    program += [*(["--port"] if options.port else [])]
    for at in range(options.rounds):
        said, cost = measure.merge(
            recipe, work / "run", memory=options.memory, threads=options.threads, keep=at == 0, load="torch"
        )
        if at == 0:
            ours = load_file(next((work / "run" / "merged").glob("*.safetensors")))
        authors = json.loads(measure.run(program).output.strip().splitlines()[-1])
        turns.append({"ours": said, "whole process": asdict(cost), "theirs": authors})
    start = load_file(base)
    models = [load_file(path) for path in experts]
    exact = {
        name: EXACT[method](
            torch.stack([model[name].double() - start[name].double() for model in models]), options.steps
        )
        for name in (list(start)[: options.exact] if options.exact else start)
    }
    return {
        "turns": turns,
        "ours": error(ours, start, exact),
        "theirs": error(load_file(theirs), start, exact),
    }


def row(method: str, found: dict[str, Any]) -> list[str]:
    """Prints one method's line of the table."""
    pairs = [(turn["theirs"]["cpu"], turn["ours"]["cpu"]) for turn in found["turns"]]
    return [
        method,
        measure.spread((theirs for theirs, _ in pairs), 1),
        measure.spread((ours for _, ours in pairs), 1),
        "**" + measure.spread((theirs / ours for theirs, ours in pairs), 1) + "**",
        f"{found['theirs']:.1e}",
        f"{found['ours']:.1e}",
        f"{max(turn['whole process']['anonymous'] for turn in found['turns']) / 2**20:.0f}",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--inner", type=int, default=3072)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--power", type=float, default=0.7, help="how fast the deltas' spectra fall")
    parser.add_argument("--steps", type=int, default=300, help="of WUDI")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of both; torch alone takes one a core")
    parser.add_argument("--exact", type=int, default=0, help="compare only so many matrices with float64; 0: all")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--port", type=Path, default=None, help="an interpreter that has fusion_bench")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    measure.add_report(parser)
    options = parser.parse_args(arguments)
    with measure.work_folder(options.out, "matrices") as work:
        write_models(work, options)
        found = measure.each(options.methods, lambda name: measure_method(name, options, work))
    columns = ["method", "theirs, CPU s", "ours, CPU s", "ratio", "their error", "our error", "our peak, MiB"]
    measure.report(options, columns, [row(name, result) for name, result in found.items()], found)


if __name__ == "__main__":
    main()
