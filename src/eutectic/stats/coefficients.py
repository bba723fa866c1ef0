"""Coefficients that a statistic gives: what may stand wherever a number per model may."""

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
