"""RegMean as fusion_bench computes it, end to end, in a process of its own.

    python benchmarks/authors_regmean.py INPUTS.npz MODEL ... --out OUT --batch 16 --threads 2

Runs in an environment with fusion_bench and transformers: models are loaded by transformers, merged by fusion_bench's
`regmean_merging` over the samples of INPUTS, and the first model with the merged parameters is written. Prints one
line of JSON: seconds and CPU seconds from the first load to the last write.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fusion_bench.method.regmean.regmean import regmean_merging
from transformers import AutoModel


class Shower:
    """What `regmean_merging` asks of a trainer: batches, and how they are handed over."""

    def __init__(self, inputs: torch.Tensor, batch: int) -> None:
        self._inputs, self._train_batch_size = inputs, batch

    def get_train_dataloader(self) -> list[dict[str, torch.Tensor]]:
        """Returns the batches in order."""
        return [{"input_ids": each} for each in self._inputs.split(self._train_batch_size)]

    def _prepare_inputs(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return batch


def main() -> None:
    """Loads, merges, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started, cpu = time.perf_counter(), time.process_time()
    inputs = torch.from_numpy(np.load(options.inputs)["input_ids"])
    models: list[Any] = [AutoModel.from_pretrained(path).eval() for path in options.models]
    showers = [Shower(inputs, options.batch) for _ in models]
    merged = regmean_merging(models, showers, [], [len(inputs)] * len(models), options.alpha)
    models[0].load_state_dict(merged, strict=False)
    models[0].save_pretrained(options.out)
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
