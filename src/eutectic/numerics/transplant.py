"""Rows of an embedding predicted from another model's: for tokens that one model has and the other lacks.

Every function takes the rows of the shared tokens in the donor's space, `there` of shape (shared, d_donor), and in the
model's own, `here` (shared, d_own), and the donor's rows of the missing tokens, `targets` (missing, d_donor), all in
float64. It returns the missing rows in the model's space, (missing, d_own). Nothing is random, and whoever calls keeps
torch to one thread, so that results do not depend on the machine's cores.
"""

from eutectic.numerics.tensors import Tensor, torch

#: Targets that are compared with all shared tokens at once.
BATCH = 256


def interpolate(targets: Tensor, there: Tensor, here: Tensor, *, k: int, weights: str, distance: str) -> Tensor:
    """Returns combinations of the k nearest shared tokens.

    `distance`: `euclidean`, or `cosine` (one minus it). `weights`: `distance`: the inverse distance (the cosine itself
    for `cosine`), normalised to sum to one; `least_squares`: those that rebuild the donor's row best; `barycentric`:
    the same with a sum of one.
    """
    k = min(k, len(there))
    out = targets.new_empty((len(targets), here.shape[1]))
    for start in range(0, len(targets), BATCH):
        part = targets[start : start + BATCH]
        apart = _distances(part, there, distance)
        near = apart.argsort(dim=1, stable=True)[:, :k]
        for row, (target, chosen) in enumerate(zip(part, near, strict=True), start):
            shares = _coefficients(target, there[chosen], apart[row - start, chosen], weights, distance)
            out[row] = shares @ here[chosen]
    return out


def _distances(targets: Tensor, there: Tensor, distance: str) -> Tensor:
    if distance == "cosine":
        return 1.0 - _unit(targets) @ _unit(there).T
    squares = (targets**2).sum(1)[:, None] + (there**2).sum(1)[None] - 2.0 * targets @ there.T
    return squares.clamp(min=0.0).sqrt()


def _unit(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1.0)


def _coefficients(target: Tensor, near: Tensor, apart: Tensor, weights: str, distance: str) -> Tensor:
    if weights == "distance":
        if distance == "euclidean":
            apart = (near - target).norm(dim=1)  # not by squares, whose difference loses what is close
        each = 1.0 - apart if distance == "cosine" else 1.0 / apart.clamp(min=1e-6)
        total = each.sum()
        return each / total if total else torch.full_like(each, 1.0 / len(each))
    if weights == "least_squares":
        return _least_squares(near.T, target[:, None])[:, 0]
    # Minimise |near.T c - target| with sum(c) = 1: the conditions with their multiplier, in one linear system.
    k = len(near)
    system, right = near.new_zeros((k + 1, k + 1)), near.new_ones(k + 1)
    system[:k, :k], system[:k, k], system[k, :k] = 2.0 * near @ near.T, 1.0, 1.0
    right[:k] = 2.0 * near @ target
    return _least_squares(system, right[:, None])[:k, 0]


def _least_squares(matrix: Tensor, right: Tensor) -> Tensor:
    """Returns the shortest least-squares solution, also where the matrix lacks rank."""
    return torch.linalg.lstsq(matrix, right, driver="gelsd").solution


def pursue(targets: Tensor, there: Tensor, here: Tensor, *, k: int) -> Tensor:
    """Returns sparse combinations of shared tokens, by orthogonal matching pursuit.

    Source: 2506.06607. k times, the unused shared token with the largest inner product with what is left of the target
    is chosen, and what is left is the target minus its projection on the chosen.

    Departs: k is at most the donor's width, and the pursuit stops where a chosen token adds no direction (its part
    orthogonal to the others below 1e-6 of its length); without that, coefficients grow without bound.
    """
    out = targets.new_zeros((len(targets), here.shape[1]))
    for row, target in enumerate(targets):
        chosen, coefficients = _pursue_one(target, there, min(k, *there.shape))
        if chosen:
            out[row] = coefficients @ here[chosen]
    return out


def _pursue_one(target: Tensor, there: Tensor, k: int) -> tuple[list[int], Tensor]:
    """Returns the chosen tokens and their coefficients: the chosen are `basis.T @ upper`, as in a QR decomposition."""
    chosen: list[int] = []
    basis, upper = there.new_zeros((k, there.shape[1])), there.new_zeros((k, k))
    left = target.clone()
    for step in range(k):
        gains = (there @ left).abs()
        gains[chosen] = -1.0
        best = int(gains.argmax())
        new = there[best].clone()
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            shares = basis[:step] @ new
            new -= shares @ basis[:step]
            upper[:step, step] += shares
        length = float(new.norm())
        if length <= 1e-6 * float(there[best].norm()):
            break
        basis[step], upper[step, step] = new / length, length
        left = left - (basis[step] @ left) * basis[step]
        chosen.append(best)
    count = len(chosen)
    right = (basis[:count] @ target)[:, None]
    return chosen, torch.linalg.solve_triangular(upper[:count, :count], right, upper=True)[:, 0]


def linear_map(there: Tensor, here: Tensor, kind: str, ridge: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the map (d_donor, d_own), the donor's centre and the model's: a row x is sent to (x - centre) map + own.

    `least_squares`; `ridge` (with that penalty on the squares of the map); `affine` (both centred first);
    `procrustes` (orthonormal rows or columns: what turns without stretching); `scaled` (the same, centred, times one
    factor).
    """
    centred = kind in ("affine", "scaled")
    origin = there.mean(0) if centred else torch.zeros_like(there[0])
    own = here.mean(0) if centred else torch.zeros_like(here[0])
    x, y = there - origin, here - own
    if kind == "ridge":
        penalty = ridge * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(x.T @ x + penalty, x.T @ y), origin, own
    if kind in ("least_squares", "affine"):
        return _least_squares(x, y), origin, own
    left, singular, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    scale = float(singular.sum() / (x**2).sum()) if kind == "scaled" else 1.0
    return scale * (left @ right), origin, own


def project(targets: Tensor, there: Tensor, here: Tensor, *, kind: str, ridge: float = 0.0) -> Tensor:
    """Returns the targets sent through the linear map that the shared tokens teach; see `linear_map`."""
    matrix, origin, own = linear_map(there, here, kind, ridge)
    return (targets - origin) @ matrix + own
