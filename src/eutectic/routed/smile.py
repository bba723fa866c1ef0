"""SMILE: a linear map of a base whose experts' low-rank updates are weighed anew for every token, without training.

Source: Tang et al., SMILE: Zero-Shot Sparse Mixture of Low-Rank Experts Construction From Pre-Trained Foundation
Models, 2024, arXiv:2408.10174, and the authors' code (fusion_bench). With update k of K as U_k S_k V_k^T,

    r_k(x) = |V_k[:gate]^T x|,    p = softmax(r) of the `top` largest, divided by their sum
    y = W_0 x + b_0 + sum_k p_k (U_k S_k V_k^T x + b_k - b_0), cut to the `rank` largest directions

A token thus goes to the experts whose changed directions it lies in most.
Departs: directions that an update does not have take no part in r_k; in the authors' code arbitrary vectors stand for
them. All experts' factors are applied and weighed, most by zero, in two products: nothing depends on the number of
tokens an expert gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from eutectic.adapters.factors import Factors, spectrum
from eutectic.numerics.tensors import torch

#: Singular values up to this part of the largest are none: factors are float32 at best.
_NONE = 1e-6


@dataclass(frozen=True, eq=False)
class Update:
    """What an expert changes of a linear map.

    Attributes:
        factors: of its weight, (d_out, d_in), as outputs by inputs; None where it leaves the map alone.
        shift: the difference of its bias, (d_out,); None for none.
    """

    factors: Factors | None = None
    shift: Tensor | None = None


class Smile(nn.Module):
    """A linear map with experts, in place of the map itself.

    Args:
        linear: the base's map, anything that makes (..., d_out) of (..., d_in); it is kept, not copied.
        updates: one an expert.
        rank: the most directions of an expert that are applied; all if None.
        gate: how many leading directions decide where an input goes.
        top: how many experts serve an input.
        like: the type and device of the map's weight.

    Raises:
        ValueError: when no expert changes the weight, or a number is out of bounds.
    """

    def __init__(
        self, linear: nn.Module, updates: Sequence[Update], *, rank: int | None, gate: int, top: int, like: Tensor
    ) -> None:
        super().__init__()
        if gate < 1 or not 1 <= top <= len(updates) or (rank is not None and rank < 1):
            raise ValueError(f"expected rank and gate from 1, top from 1 to {len(updates)}: {rank}, {gate}, {top}")
        spectra = [spectrum(each.factors) if each.factors is not None else None for each in updates]
        shape = next((each.factors.shape for each in updates if each.factors is not None), None)
        if shape is None:
            raise ValueError("expected an expert that changes the weight, found none")
        (out, inputs), self.linear, self.top, self.experts = shape, linear, top, len(updates)
        doors = torch.zeros(len(updates), gate, inputs, dtype=torch.float64)
        left, right, owners = [], [], []
        for at, found in enumerate(spectra):
            if found is None:
                continue
            real = int((found.s > _NONE * found.s[:1]).sum())
            doors[at, : min(gate, real)] = found.vt[: min(gate, real)]
            kept = real if rank is None else min(rank, real)
            left.append(found.u[:, :kept] * found.s[:kept])
            right.append(found.vt[:kept])
            owners += [at] * kept
        shifts: Tensor | None = None
        if any(each.shift is not None for each in updates):
            none = torch.zeros(out, dtype=torch.float64)
            shifts = torch.stack([none if each.shift is None else each.shift.double() for each in updates]).to(like)
        # Buffers follow the model to its device and type, and are not stored with it. `owners`: whose a direction is.
        self.register_buffer("doors", doors.flatten(0, 1).to(like), persistent=False)
        self.register_buffer("left", torch.cat(left, 1).to(like), persistent=False)
        self.register_buffer("right", torch.cat(right).to(like), persistent=False)
        self.register_buffer("owners", torch.tensor(owners, dtype=torch.long, device=like.device), persistent=False)
        self.register_buffer("shifts", shifts, persistent=False)

    def strengths(self, x: Tensor) -> Tensor:
        """Returns how much of an input lies in each expert's directions: (..., d_in) -> (..., K), at least float32."""
        parts = nn.functional.linear(x, self.get_buffer("doors")).reshape(*x.shape[:-1], self.experts, -1)
        size: Tensor = torch.linalg.vector_norm(parts, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
        return size

    def weights(self, x: Tensor) -> Tensor:
        """Returns each expert's weight at each input: (..., d_in) -> (..., K), 0 for all but the `top`."""
        chances = self.strengths(x).softmax(-1)
        if self.top == self.experts:
            return chances
        values, chosen = chances.topk(self.top, dim=-1)
        return torch.zeros_like(chances).scatter(-1, chosen, values / values.sum(-1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the base's outputs and the weighed experts' changes: (..., d_in) -> (..., d_out)."""
        weights = self.weights(x).to(x.dtype)
        inside = nn.functional.linear(x, self.get_buffer("right")) * weights[..., self.get_buffer("owners")]
        out: Tensor = self.linear(x) + nn.functional.linear(inside, self.get_buffer("left"))
        shifts = self._buffers["shifts"]
        return out if shifts is None else out + weights @ shifts
