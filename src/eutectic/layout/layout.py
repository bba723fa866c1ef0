"""Where a tensor stands in its model: role, block, depth; which names are one tensor; which rows are tokens."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from eutectic.errors import MismatchError
from eutectic.layout.roles import Role


@dataclass(frozen=True)
class Place:
    """One tensor's place.

    Attributes:
        name: as in the file.
        role: what it is for.
        stack: the prefix before the block number (`model.layers`), or None outside all blocks.
        block: its block in that stack, from 0; None exactly when `stack` is.
        depth: share in [0, 1] of the way through its stack: 0 for embeddings and what precedes the blocks, b / (L - 1)
            in block b of L (1 when L is 1), 1 behind the blocks.
    """

    name: str
    role: Role
    stack: str | None
    block: int | None
    depth: float


@dataclass(frozen=True)
class Layout:
    """What the names of one model mean.

    Attributes:
        places: every tensor of the header, in its order.
        stacks: number of blocks by stack prefix; prediction layers kept behind the hidden ones are counted.
        tied: groups of names in the header that are one tensor when loaded; the first is the one to keep.
        vocabulary: the axis whose indices are token ids, by tensor name.
    """

    places: Mapping[str, Place]
    stacks: Mapping[str, int]
    tied: tuple[tuple[str, ...], ...]
    vocabulary: Mapping[str, int]


def with_block(name: str, stack: str, block: int) -> str:
    """Returns the name of the same tensor in another block: `model.layers.3.x` -> `model.layers.7.x`.

    Raises:
        MismatchError: when `name` has no block in `stack`.
    """
    found = re.match(rf"{re.escape(stack)}\.(\d+)(?=\.|$)", name)
    if found is None:
        raise MismatchError(f"{name}: expected a tensor of a block in {stack}")
    return f"{stack}.{block}{name[found.end() :]}"
