"""Synthetic Llama folders to measure on: a base of N(0, 0.02) and experts of base + N(0, 0.002), in bfloat16.

    python -m benchmarks.make_models --params 1.1 --experts 3 --out /tmp/models

Folders that are there already are kept, so every benchmark may ask for what it needs. Every element is drawn (nothing
repeats), keyed by model, tensor and chunk: the same folder comes out on any number of threads.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

BASE_SIGMA, DELTA_SIGMA = 0.02, 0.002
CHUNK = 1 << 20
DEFAULT_OUT = Path(tempfile.gettempdir()) / "eutectic-benchmarks"


@dataclass(frozen=True)
class Shape:
    """A Llama's dimensions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Returns every tensor's shape under its name in transformers, in file order."""
        kv = self.hidden // self.heads * self.kv_heads
        block = {
            "input_layernorm": (self.hidden,),
            "mlp.down_proj": (self.hidden, self.ffn),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "post_attention_layernorm": (self.hidden,),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for index in range(self.layers):
            found |= {f"model.layers.{index}.{name}.weight": shape for name, shape in block.items()}
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocab, self.hidden)}

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.tensors().values())

    def config(self) -> dict[str, object]:
        """Returns `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "num_hidden_layers": self.layers,
            "vocab_size": self.vocab,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        }


#: By billions of parameters, roughly; 1.1 has the shape of TinyLlama.
SHAPES = {
    "0.01": Shape(256, 4, 4, 2, 704, 8000),
    "0.1": Shape(640, 13, 10, 2, 1728, 32000),
    "0.15": Shape(768, 16, 12, 4, 2048, 32000),
    "0.3": Shape(1024, 21, 16, 4, 2816, 32000),
    "1.1": Shape(2048, 22, 32, 4, 5632, 32000),
}


def model_folders(params: str, experts: int, out: Path, threads: int = 2) -> tuple[Path, list[Path]]:
    """Returns the base's folder and the experts', written now where they are missing."""
    root = out / f"llama-{params}B"
    base = _write_once(root / "base", SHAPES[params], None, 0, threads)
    return base, [_write_once(root / f"expert_{i}", SHAPES[params], base, i + 1, threads) for i in range(experts)]


def _write_once(folder: Path, shape: Shape, base: Path | None, seed: int, threads: int) -> Path:
    """Writes a folder beside its place and moves it there, so that half a folder is never taken for one."""
    if folder.exists():
        return folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shards = _shards(shape)
    torch.set_num_threads(1)  # the pool below is the parallelism
    with ThreadPoolExecutor(threads) as pool:
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            _write_shard(partial / file, names, shape, base and base / file, seed, pool)
    files = {name: f"model-{i:05}-of-{len(shards):05}.safetensors" for i, part in enumerate(shards, 1) for name in part}
    index = {"metadata": {"total_size": 2 * shape.parameters}, "weight_map": files}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (partial / "config.json").write_text(json.dumps(shape.config(), indent=1))
    partial.rename(folder)
    return folder


def _shards(shape: Shape, limit: int = 1_500_000_000) -> list[list[str]]:
    """Cuts the tensors, in order, into files of at most `limit` bytes."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, dims in shape.tensors().items():
        nbytes = 2 * math.prod(dims)
        if shards[-1] and size + nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _write_shard(
    path: Path, names: list[str], shape: Shape, base: Path | None, seed: int, pool: ThreadPoolExecutor
) -> None:
    tensors = shape.tensors()
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in names:
        nbytes = 2 * math.prod(tensors[name])
        entry = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [offset, offset + nbytes]}
        header[name], offset = entry, offset + nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    target = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    source = os.open(base, os.O_RDONLY) if base else None
    try:
        os.pwrite(target, struct.pack("<Q", len(text)) + text, 0)
        jobs = _jobs(names, tensors, start, target, source, seed)
        for done in [pool.submit(job) for job in jobs]:
            done.result()
        os.fsync(target)
    finally:
        os.close(target)
        if source is not None:
            os.close(source)


def _jobs(
    names: list[str], tensors: dict[str, tuple[int, ...]], start: int, target: int, source: int | None, seed: int
) -> Iterator[Callable[[], None]]:
    order = list(tensors)
    for name in names:
        size, is_norm = math.prod(tensors[name]), len(tensors[name]) == 1
        for first in range(0, size, CHUNK):
            count, offset = min(CHUNK, size - first), start + 2 * first
            key = [seed, order.index(name), first]
            yield lambda k=key, n=count, at=offset, one=is_norm: _fill(target, source, at, n, k, one)  # type: ignore[misc]
        start += 2 * size


def _fill(target: int, source: int | None, offset: int, count: int, key: list[int], is_norm: bool) -> None:
    """Draws one chunk and writes it; an expert's is the base's chunk, as stored, plus a draw."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    drawn = torch.empty(count).normal_(generator=generator)
    if source is None:
        drawn.mul_(BASE_SIGMA).add_(float(is_norm))
    else:
        stored = torch.frombuffer(bytearray(os.pread(source, 2 * count, offset)), dtype=torch.bfloat16)
        drawn.mul_(DELTA_SIGMA).add_(stored)
    os.pwrite(target, drawn.bfloat16().view(torch.int16).numpy().data, offset)


def add_arguments(parser: argparse.ArgumentParser, params: str = "0.3") -> None:
    """Adds the options that say which models, and where they are kept."""
    parser.add_argument("--params", choices=sorted(SHAPES, key=float), default=params, help="billions of parameters")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the models (kept) and the outputs")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads to merge and copy with")


def main() -> None:
    """Writes the folders and prints where they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--experts", type=int, default=3)
    options = parser.parse_args()
    base, experts = model_folders(options.params, options.experts, options.out, options.threads)
    print(f"{SHAPES[options.params].parameters:,} parameters each", base, *experts, sep="\n")


if __name__ == "__main__":
    main()
