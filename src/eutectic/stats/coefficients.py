"""Coefficients from a source: what may stand wherever a number per model may.

Some come from a statistic of the models (`InverseNorms`), some from their order alone (`RunAverage`).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from eutectic.stats.fold import Scope, Statistic
from eutectic.stats.weights import Energy


@dataclass(frozen=True)
class InverseNorms:
    """NAN: each model weighs by the inverse of its norm, c_i = scale * (1 / |W_i|) / sum_j (1 / |W_j|).

    Source: arXiv:2505.16148 as its authors describe it (there is no code). What the paper leaves open is a choice here:
    whose norm (`of`: the fine-tuned weights' or the deltas'), over what (`per`: the model or each tensor), and the sum
    of the coefficients (`scale`: n / 2 by default, as the one public implementation has it; 1 keeps an average).
    """

    of: Literal["finetuned", "delta"] = "finetuned"
    per: Literal["model", "tensor"] = "model"
    scale: float | Literal["n/2"] = "n/2"

    @property
    def statistic(self) -> Statistic:
        """The squared norms it is made from."""
        scope = Scope.MODEL if self.per == "model" else Scope.TENSOR
        return Energy(scope, "weights" if self.of == "finetuned" else "deltas")

    def solve(self, energy: Any, n: int) -> tuple[float, ...]:
        """Returns n coefficients from the squared norms; a model of norm 0 counts as 1e-12."""
        inverse = 1.0 / (np.sqrt(np.asarray(energy, np.float64)[-n:]) + 1e-12)
        scale = n / 2 if self.scale == "n/2" else float(self.scale)
        return tuple(float(c) for c in scale * inverse / inverse.sum())


@dataclass(frozen=True)
class RunAverage:
    """Averages over the checkpoints of one run, oldest first; the coefficients add up to 1.

    `simple`: all alike (SWA, arXiv:1803.05407; SMA of PMA, arXiv:2505.12082, section 3). `linear`: the i-th weighs i
    (PMA's WMA). `exponential`: M_1 = W_1 and M_i = decay * M_(i-1) + (1 - decay) * W_i, which is torch's EMA and PMA's
    recursion (whose a is 1 - decay); the oldest keeps what is left, decay^(n - 1). `normalized`: in proportion to
    decay^(n - i), the other form that PMA's paper writes, in which the newest always weighs most.
    """

    kind: Literal["simple", "linear", "exponential", "normalized"]
    decay: float = 0.0

    def weights(self, n: int) -> tuple[float, ...]:
        """Returns the coefficients of n checkpoints."""
        if self.kind == "simple":
            return (1 / n,) * n
        if self.kind == "linear":
            return tuple(2 * i / (n * (n + 1)) for i in range(1, n + 1))
        powers = [self.decay ** (n - i) for i in range(1, n + 1)]
        if self.kind == "normalized":
            return tuple(power / sum(powers) for power in powers)
        return (powers[0], *((1 - self.decay) * power for power in powers[1:]))
