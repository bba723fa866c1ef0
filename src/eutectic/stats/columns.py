"""What each input channel of a model's update is multiplied with, learned from data by running the models."""

from dataclasses import dataclass
from typing import Literal

from eutectic.stats.fold import Calibrated, Origin, Sees


@dataclass(frozen=True)
class ColumnWeights(Calibrated):
    """One number an input channel of a linear map's update, (d_in,), learned together for all models (ZipLoRA).

    Attributes:
        similarity: how much overlapping weights cost (lambda).
        overlap: of two models' weights, as the paper or as published code measures it.
        steps: of AdamW.
        rate: of AdamW.
    """

    similarity: float
    overlap: Literal["paper", "code"]
    steps: int
    rate: float
    origin = Origin.LEARNED

    def takes(self, sees: Sees) -> bool:
        return sees is Sees.INPUTS
