"""The one interface all inputs share: a header to plan from, and positioned reads into memory the caller owns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eutectic.checkpoint.spec import TensorSpec

if TYPE_CHECKING:  # a hub model is a source itself
    from eutectic.checkpoint.remote import HubSource

Buffer = NDArray[np.uint8]


class Source(Protocol):
    """Named tensors that can be asked before they are read.

    Reads are of element ranges of the flattened (row-major) tensor, in its stored type, little-endian, so that the
    engine decides how much memory is in flight. All methods may be called from several threads at once.
    """

    @property
    def name(self) -> str:
        """How messages call this source: a path, or what the recipe called it."""
        ...

    @property
    def header(self) -> Mapping[str, TensorSpec]:
        """Every tensor by name, in stored order."""
        ...

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of tensor `name`.

        Raises:
            CheckpointError: when the file is shorter than its header said, or cannot be read.
        """
        ...

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Tells the operating system that elements `start..stop` of tensor `name` are read soon. May do nothing."""
        ...

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to produce the whole tensor once."""
        ...

    def fingerprint(self) -> str:
        """A digest that changes whenever the content may have changed; cheap (headers, sizes, times, samples)."""
        ...

    def check_unchanged(self) -> None:
        """Checks that no file changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        ...

    def close(self) -> None:
        """Releases files. The source cannot be read afterwards."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A source with what surrounds its weights.

    Attributes:
        reference: what the user wrote to name it.
        source: the tensors.
        folder: where config, tokenizer and other files lie; None for a bare weight file.
        config: the parsed config.json, or an empty mapping.
        revision: the commit a hub model was resolved to, if it came from a hub.
        deltas: the tensors are differences to be added to a base (an adapter), not weights. A delta source lists
            only the tensors it changes.
        hub: the hub models its tensors are read from; `materialise` downloads what of them is not here yet.
    """

    reference: str
    source: Source
    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    deltas: bool = False
    hub: "tuple[HubSource, ...]" = ()
