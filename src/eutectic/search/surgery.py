"""Representation Surgery: small maps, one a task, that bring a merged model's features nearer to its expert's.

Source: Yang et al., Representation Surgery for Multi-Task Model Merging, ICML 2024, arXiv:2402.02705, and the authors'
code: z' = z - U relu(D z), D (rank, width), U (width, rank), without biases; D starts as torch draws a linear map, U at
zero; the mean of |z' - expert's z| is minimised by Adam at a rate of 0.001 over 500 rounds of two batches of 16 a task,
with a step after each batch. Features are those of the final embedding, before it is normalised.
Departs: features are taken once and kept, as neither model changes; the data is other than test inputs unless these are
asked for.
"""

import random
from dataclasses import dataclass

from eutectic.calibrate.batches import drawn
from eutectic.numerics.adam import Adam
from eutectic.numerics.tensors import Tensor, torch


@dataclass(frozen=True)
class FeatureAdapter:
    """z' = z - up @ relu(down @ z).

    Attributes:
        down: (rank, width).
        up: (width, rank).
    """

    down: Tensor
    up: Tensor

    @classmethod
    def start(cls, width: int, rank: int, seed: int, task: str) -> "FeatureAdapter":
        """Draws `down` from -1 / sqrt(width) to 1 / sqrt(width); `up` is zero, so that features are as they were."""
        generator = torch.Generator().manual_seed(random.Random(f"{seed} {task}").getrandbits(63))
        down = (2 * torch.rand(rank, width, generator=generator) - 1) / width**0.5
        return cls(down, torch.zeros(width, rank))

    def __call__(self, features: Tensor) -> Tensor:
        """Returns adapted features, (..., width)."""
        down, up = self.down.to(features), self.up.to(features)
        return features - (features @ down.T).clamp(min=0) @ up.T

    def distance(self, merged: Tensor, expert: Tensor) -> float:
        """Returns the mean absolute difference of adapted features from the expert's."""
        return float((self(merged) - expert).abs().mean())

    def derivatives(self, merged: Tensor, expert: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the derivatives of `distance` to `down` and `up`; features are (samples, width)."""
        reached = merged @ self.down.T  # (samples, rank)
        kept = reached.clamp(min=0)
        pull = (merged - kept @ self.up.T - expert).sign() / merged.numel()  # (samples, width)
        back = (pull @ self.up) * (reached > 0)  # (samples, rank)
        return -back.T @ merged, -pull.T @ kept


def fit(
    merged: Tensor,
    expert: Tensor,
    start: FeatureAdapter,
    *,
    steps: int = 500,
    batches: int = 2,
    size: int = 16,
    rate: float = 1e-3,
    seed: int = 0,
    task: str = "",
) -> FeatureAdapter:
    """Fits an adapter to features of the same samples, (samples, width), in float32.

    Args:
        merged: by the merged model.
        expert: by the task's own.
        start: where to start.
        steps: rounds.
        batches: steps of Adam a round, each on another batch.
        size: samples of a batch.
        rate: of Adam.
        seed: of the batches, with `task`.
        task: the task's name.
    """
    down, up = Adam(start.down.clone(), rate), Adam(start.up.clone(), rate)
    for step in range(1, steps + 1):
        order = drawn(len(merged), batches * size, seed, task, step)
        for first in range(0, len(order), size):
            chosen = order[first : first + size]
            found = FeatureAdapter(down.values, up.values).derivatives(merged[chosen], expert[chosen])
            down.step(found[0])
            up.step(found[1])
    return FeatureAdapter(down.values, up.values)
