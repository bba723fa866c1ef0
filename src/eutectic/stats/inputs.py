"""Statistics of what layers are given: Gram matrices and moments of their inputs.

Sums are kept in float64 over products of at most `ROWS` rows in float32, so the order of samples and how they are
batched change a result by no more than the forward pass itself does (a relative 1e-6, tested).
"""

from dataclasses import dataclass
from typing import Literal

from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Accumulated, Of, Origin, Sees

#: Rows multiplied at once in float32.
ROWS = 2048


@dataclass(frozen=True)
class InputGram(Accumulated):
    """X^T X over all rows X that a linear map is given: (width, width), or (groups, width, width).

    Rows are tokens (or patches) of the model's own data through its own weights; padding counts as the recipe says.
    `of` MERGED: through the merged blocks before the map's own, and within that block through the model's own
    (RegMean++).
    """

    of_: Literal["each", "base", "merged"] = "each"
    origin = Origin.INPUTS
    symmetric = True

    @property
    def of(self) -> Of:  # type: ignore[override]
        return Of(self.of_)

    def takes(self, sees: Sees) -> bool:
        return sees is Sees.INPUTS

    def init(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(*shape, shape[-1], dtype=torch.float64)

    def update(self, state: Tensor, seen: Tensor) -> None:
        for rows in torch.split(seen, ROWS, dim=-2):
            state += rows.mT @ rows

    def finish(self, state: Tensor, count: int) -> Tensor:
        return state.float()


@dataclass(frozen=True)
class InputMoments(Accumulated):
    """Sums and sums of squares of each channel: (2, width), or (2, groups, width).

    At a linear map the channels are its inputs'; at the scale of a norm they are the normalised activations that the
    scale multiplies. `at` the scales: at those alone.
    """

    of_: Literal["each", "base"] = "each"
    at: Literal["maps and scales", "scales"] = "maps and scales"
    origin = Origin.INPUTS

    @property
    def of(self) -> Of:  # type: ignore[override]
        return Of(self.of_)

    def takes(self, sees: Sees) -> bool:
        return sees is Sees.NORMALISED or (sees is Sees.INPUTS and self.at != "scales")

    def init(self, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(2, *shape, dtype=torch.float64)

    def update(self, state: Tensor, seen: Tensor) -> None:
        for rows in torch.split(seen, ROWS, dim=-2):
            wide = rows.double()
            state[0] += wide.sum(-2)
            state[1] += wide.square().sum(-2)

    def finish(self, state: Tensor, count: int) -> Tensor:
        return state.float()
