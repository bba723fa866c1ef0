"""Content digests, streamed in bounded memory: equal exactly when the tensors are, whatever files they lie in."""

import hashlib
from typing import Final

import numpy as np

from eutectic.checkpoint.ranges import elements, find
from eutectic.checkpoint.source import Source

#: Bytes in memory while a tensor is digested: 3 MiB, whole elements of every type (3 bytes hold four of 6 bits).
BLOCK: Final = 24 * 2**17


def tensor_digest(source: Source, name: str) -> str:
    """Returns the sha256 of one tensor: its element type, shape and bytes; the name does not count.

    Raises:
        CheckpointError: when there is no such tensor, or it cannot be read.
    """
    spec = find(source.header, name, source.name)
    digest = hashlib.sha256(f"{spec.dtype} {list(spec.shape)}\n".encode())
    buffer = np.empty(min(BLOCK, spec.nbytes), np.uint8)
    done = 0
    while done < spec.nbytes:
        part = buffer[: min(BLOCK, spec.nbytes - done)]
        source.read_into(name, elements(spec, done), part)
        digest.update(part.data)
        done += part.size
    return digest.hexdigest()


def source_digest(source: Source) -> str:
    """Returns the sha256 of all tensors with their names; shards and the order of tensors do not count.

    Raises:
        CheckpointError: when a tensor cannot be read.
    """
    digest = hashlib.sha256()
    for name in sorted(source.header):
        digest.update(f"{name}\0{tensor_digest(source, name)}\n".encode())
    return digest.hexdigest()
