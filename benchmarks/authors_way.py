"""Matrix methods as their authors' code and fusion_bench compute them, in a process of its own.

    python benchmarks/authors_way.py tsv_m BASE.safetensors EXPERT.safetensors ... --out OUT.safetensors [--port]

This file needs torch and safetensors only, so any environment runs it. With `--port` the functions of an installed
fusion_bench are called; otherwise the same steps are written out here: full SVDs in float32 for every expert and
matrix, and Adam by autograd over the stacked deltas. Only matrices are given to it. Prints one line of JSON: the CPU
seconds of the merging alone, without loading, subtracting the base and writing.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def tsv_m(deltas: list[torch.Tensor], _: int) -> torch.Tensor:
    """Cuts every delta's SVD, and makes the vectors of all orthonormal by two more."""
    kept = int(min(deltas[0].shape) / len(deltas))
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u = torch.cat([part.U[:, :kept] for part in parts], dim=1)
    v = torch.cat([part.Vh[:kept] for part in parts])
    s = torch.cat([part.S[:kept] for part in parts])
    left, right = (torch.linalg.svd(each, full_matrices=False) for each in (u, v))
    return torch.linalg.multi_dot((left.U, left.Vh, torch.diag(s), right.U, right.Vh))


def iso_c(deltas: list[torch.Tensor], _: int) -> torch.Tensor:
    """Makes all singular values of the sum their mean."""
    u, s, vh = torch.linalg.svd(torch.stack(deltas).sum(0), full_matrices=False)
    return torch.linalg.multi_dot((u, torch.diag(torch.full_like(s, float(s.mean()))), vh))


def wudi(deltas: list[torch.Tensor], steps: int) -> torch.Tensor:
    """Takes Adam steps on the disturbance of all tasks, by autograd over their stack."""
    stack = torch.stack(deltas)
    merged = torch.nn.Parameter(stack.sum(0))
    optimizer = torch.optim.Adam([merged], lr=1e-5)
    sizes = stack.flatten(1).square().sum(1)[:, None, None]
    for _ in range(steps):
        loss = ((merged - stack) @ stack.transpose(1, 2)).square().div(sizes).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return merged.detach()


def port(method: str, vectors: list[Tensors], steps: int) -> Tensors:
    """Calls fusion_bench."""
    if method == "tsv_m":
        from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
            compute_and_sum_svd_mem_reduction,
        )

        return compute_and_sum_svd_mem_reduction(vectors, accelerator="cpu")
    if method == "iso_c":
        from fusion_bench.method.isotropic_merging.iso_utils import iso_c as merge

        return merge(vectors, accelerator="cpu")
    from fusion_bench.method.wudi.wudi import wudi_merging

    found = wudi_merging(vectors, accelerator="cpu", iter_num=steps)
    return {name: value.detach() for name, value in found.items()}


def main() -> None:
    """Merges and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=["tsv_m", "iso_c", "wudi"])
    parser.add_argument("base", type=Path)
    parser.add_argument("experts", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--port", action="store_true", help="call fusion_bench's functions")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    base = load_file(options.base)
    vectors = [{name: value - base[name] for name, value in load_file(path).items()} for path in options.experts]
    if options.port:
        port(options.method, [{"w": torch.ones(2, 2)}] * 2, 1)  # loads what it loads before the clock starts
    torch.linalg.svd(torch.ones(2, 2))
    started = time.process_time()
    if options.port:
        merged = port(options.method, vectors, options.steps)
    else:
        one = {"tsv_m": tsv_m, "iso_c": iso_c, "wudi": wudi}[options.method]
        merged = {name: one([vector[name] for vector in vectors], options.steps) for name in base}
    cpu = time.process_time() - started
    save_file({name: (base[name] + value).contiguous() for name, value in merged.items()}, options.out)
    print(json.dumps({"cpu": cpu}))


if __name__ == "__main__":
    main()
