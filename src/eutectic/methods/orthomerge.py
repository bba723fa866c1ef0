"""OrthoMerge: merge the rotations that models made of their base, without shortening them, and what is left apart.

Source: OrthoMerge, 2026, arXiv:2602.05943, and the authors' code. R_n is the rotation that brings W_0 R_n nearest to
W_n, (d_in, d_in), and Q_n = (R_n + I)^-1 (R_n - I) its generator, which is skew. A sum of generators is shorter than
they are, the more so the more they differ, so it is given their mean length:

    Q = (sum_n |Q_n| / n) (sum_n Q_n) / |sum_n Q_n|,    R = (I - Q)^-1 (I + Q)
    W = W_0 R + residual * sum_n (W_n - W_0 R_n)

Departs: R_n is a rotation (in the authors' code, R_n with a reflection makes numbers of 1e15); where W_0^T W_n has no
direction, R_n moves as little as it can; half a turn, which has no generator, is refused. `weight` multiplies Q_n and
the residual. Vectors move by the mean of their deltas; embeddings and heads too, unless `tensors: matrices`, as in the
authors' code. OFT adapters store generators of blocks; merged to an adapter (`output: {form: adapter}`), those of a
module are merged by the first line, all blocks together, as in the authors' code, and there is no residual.
"""

from eutectic.errors import MismatchError
from eutectic.methods.declare import Elsewhere, Laws, Locality, Needs, NonNegative, Paper, PerModel, combine
from eutectic.methods.matrices import Tensors, domain, mean_elsewhere
from eutectic.methods.site import Site
from eutectic.numerics.rotations import generator_of, nearest_rotation, rotation_of
from eutectic.numerics.tensors import Tensor, torch


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    """Peak memory in float32 elements: of each model two square float64 matrices, a decomposition of one, the rows."""
    out, columns = shape
    side = min(columns, (n + 1) * out)
    return (4.0 * n + 32.0) * side**2 + 8.0 * (n + 2) * out * columns


def _needs(*, tensors: str, **_: object) -> Needs:
    return Needs(base=True, locality=Locality.TENSOR, domain=domain(tensors), scratch=_scratch)


def _elsewhere(n: int, **_: object) -> Elsewhere:
    return mean_elsewhere(n, scale=1.0)


def _generators(parts: list[Tensor], *, weight: tuple[float, ...], **_: object) -> Tensor:
    return join([each * part for each, part in zip(weight, parts, strict=True)])


@combine(
    Paper("arXiv:2602.05943", "OrthoMerge", 2026),
    needs=_needs(tensors="linear"),
    laws=Laws(symmetric=True, fixed_point=True, identity=False, shift=False, scale=True),
    vary=_needs,
    elsewhere=_elsewhere,
    generators=_generators,
)
def orthomerge(
    site: Site,
    *,
    weight: PerModel = 1.0,  # type: ignore[assignment]
    residual: NonNegative = 0.2,
    tensors: Tensors = "linear",
) -> Tensor:
    """Merges rotations of the base, and what no rotation explains: (n, d_out, d_in) -> (d_out, d_in).

    Args:
        weight: multiplies each model's generator and residual.
        residual: multiplies the sum of what the rotations leave of the deltas.
        tensors: merge the linear maps this way, or every matrix; the others are averaged.
    """
    weights = weight.reshape(-1).tolist()
    base, models = site.base.double(), site.tensors.double()
    rows = torch.cat([base, *models])
    basis = torch.linalg.qr(rows.T)[0] if len(rows) < rows.shape[1] else None  # (d_in, p): nothing turns outside it
    if basis is not None:
        base, models = base @ basis, models @ basis
    turns = site.each(lambda model: nearest_rotation(base.T @ model), models)  # R_n
    parts = site.each(lambda turn: _generator(turn, site.name), turns)
    merged = rotation_of(join([each * part for each, part in zip(weights, parts, strict=True)]))
    left = sum(
        (each * (model - base @ turn) for each, model, turn in zip(weights, models, turns, strict=True)),
        torch.zeros_like(base),
    )
    found = base @ merged + residual * left
    return (found if basis is None else found @ basis.T).to(site.base.dtype)


def join(parts: list[Tensor]) -> Tensor:
    """Adds generators of one shape, and gives the sum their mean length; what cancels stays zero."""
    total = torch.stack(parts).sum(0)
    length = torch.linalg.vector_norm(total)
    mean = torch.stack([torch.linalg.vector_norm(part) for part in parts]).mean()
    return total * (mean / length) if length > 0 else total


def _generator(turn: Tensor, name: str) -> Tensor:
    found = generator_of(turn)
    if found is None:
        raise MismatchError(
            f"{name}: a model turned a direction of the base by half a turn, which no generator stands for; "
            "it is no fine-tuning of this base, or this tensor needs another method (rules)"
        )
    return found
