"""Counter-based draws: element e of tensor t of model i gets the same number whoever asks, in whatever slice.

A draw is a 32-bit hash of (seed, tensor name, chain position, model position, element index): a multiply-xorshift mix
(constants of Wellons' `lowbias32`) of the index, keyed before and again between its rounds, so that the streams of two
models are not shifted copies of each other. DARE masks therefore differ from those of other tools for the same seed.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from eutectic.numerics.tensors import Tensor, torch

_MASK = 0xFFFFFFFF


def drawn_share(density: float) -> float:
    """Returns the share that is kept when `density` is asked for: the float32 nearest it, in either precision."""
    return float(np.float32(density))


def threshold(density: float) -> int:
    """Returns T such that a 32-bit draw below T happens with probability `drawn_share(density)`, to within 2**-32."""
    return min(max(round(drawn_share(density) * 2.0**32), 0), 2**32)


@dataclass(frozen=True)
class Key:
    """Where draws come from: the recipe's seed, the tensor, the chain position, and the slice's first element."""

    seed: int
    name: str
    step: int = 0
    start: int = 0

    def at(self, step: int) -> "Key":
        """Returns the key of another chain position."""
        return replace(self, step=step)

    def streams(self, n: int) -> NDArray[np.uint32]:
        """Returns two 32-bit words per model, (n, 2)."""
        words = [
            hashlib.blake2b(f"{self.seed}\0{self.name}\0{self.step}\0{model}".encode(), digest_size=8).digest()
            for model in range(n)
        ]
        return np.frombuffer(b"".join(words), dtype="<u4").reshape(n, 2).copy()

    def draws(self, n: int, like: Tensor) -> list[Tensor]:
        """Returns a 32-bit number per model and element, as int64, in the shape of `like[0]`."""
        count = like[0].numel()
        index = torch.arange(self.start, self.start + count, dtype=torch.int64, device=like.device)
        low, high = index & _MASK, index >> 32
        found = []
        for first, second in self.streams(n).tolist():
            x = (low * 0x9E3779B1 + first) & _MASK
            x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
            x = x ^ (second ^ ((high * 0x85EBCA6B) & _MASK))
            x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
            # Products wrap in int64, which the mask makes harmless.
            found.append((x ^ (x >> 16)).reshape(like.shape[1:]))
        return found

    def keep(self, density: tuple[float, ...], like: Tensor) -> Tensor:
        """Returns a mask (n, *shape) that is True with probability `density[i]`, independently per element."""
        draws = self.draws(len(density), like)
        return torch.stack([draw < threshold(share) for share, draw in zip(density, draws, strict=True)])
