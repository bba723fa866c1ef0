"""Rows of an embedding predicted from another model's: for tokens that one model has and the other lacks.

Every function takes the rows of the shared tokens in the donor's space, `there` of shape (shared, d_donor), and in the
model's own, `here` (shared, d_own), and the donor's rows of the missing tokens, `targets` (missing, d_donor), all in
float64. It returns the missing rows in the model's space, (missing, d_own). Nothing is random, and whoever calls keeps
torch to one thread, so that results do not depend on the machine's cores.
"""

from eutectic.numerics.tensors import Tensor, torch

#: Targets that are compared with all shared tokens at once.
BATCH = 256
#: Targets that are pursued at once: each holds k rows of the donor's width.
PURSUED = 32


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
    solution: Tensor = torch.linalg.lstsq(matrix, right, driver="gelsd").solution
    return solution


def pursue(targets: Tensor, there: Tensor, here: Tensor, *, k: int) -> Tensor:
    """Returns sparse combinations of shared tokens, by orthogonal matching pursuit.

    Source: 2506.06607. k times, the unused shared token with the largest inner product with what is left of the target
    is chosen, and what is left is the target minus its projection on the chosen.

    Departs: k is at most the donor's width, and the pursuit stops where a chosen token adds no direction (its part
    orthogonal to the others below 1e-6 of its length); without that, coefficients grow without bound.
    """
    k = min(k, *there.shape)
    parts = [_pursue(targets[at : at + PURSUED], there, here, k) for at in range(0, len(targets), PURSUED)]
    return torch.cat(parts) if parts else targets.new_zeros((0, here.shape[1]))


def _pursue(targets: Tensor, there: Tensor, here: Tensor, k: int) -> Tensor:
    """Pursues a few targets at once. A target's chosen tokens are `basis.T @ upper`, as in a QR decomposition."""
    count, width = targets.shape
    basis, upper = targets.new_zeros((count, k, width)), targets.new_zeros((count, k, k))
    chosen = torch.zeros((count, k), dtype=torch.int64)
    alive = torch.ones(count, dtype=torch.bool)
    left = targets.clone()
    for step in range(k):
        gains = (left @ there.T).abs().scatter(1, chosen[:, :step], -1.0)
        chosen[:, step] = gains.argmax(1)
        atoms = there[chosen[:, step]]
        new = atoms.clone()
        for _ in range(2):  # twice is enough to be orthogonal to rounding
            shares = torch.einsum("bsd,bd->bs", basis[:, :step], new)
            new = new - torch.einsum("bs,bsd->bd", shares, basis[:, :step])
            upper[:, :step, step] += shares
        length = new.norm(dim=1)
        alive &= length > 1e-6 * atoms.norm(dim=1)
        # One that has stopped gets a direction of zeros, whose coefficient is zero.
        basis[:, step] = torch.where(alive, 1.0 / length, 0.0)[:, None] * new.nan_to_num()
        upper[:, :step, step] *= alive[:, None]
        upper[:, step, step] = torch.where(alive, length, 1.0)
        left = left - (basis[:, step] * left).sum(1, keepdim=True) * basis[:, step]
    right = torch.einsum("bkd,bd->bk", basis, targets)
    coefficients = torch.linalg.solve_triangular(upper, right[..., None], upper=True)
    return torch.einsum("bk,bkd->bd", coefficients[..., 0], here[chosen])


def linear_map(there: Tensor, here: Tensor, kind: str, ridge: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the map (d_donor, d_own), the donor's centre and the model's: a row x is sent to (x - centre) map + own.

    `least_squares`; `ridge` (with that penalty on the squares of the map); `affine` (both centred first);
    `procrustes` (orthonormal rows or columns: what turns without stretching); `scaled` (the same, centred, times one
    factor); `landmark` (both centred and reduced to their first principal axes, as many as the narrower has, which are
    then turned onto each other).
    """
    centred = kind in ("affine", "scaled", "landmark")
    origin = there.mean(0) if centred else torch.zeros_like(there[0])
    own = here.mean(0) if centred else torch.zeros_like(here[0])
    x, y = there - origin, here - own
    if kind == "ridge":
        penalty = ridge * torch.eye(x.shape[1], dtype=x.dtype)
        return torch.linalg.solve(x.T @ x + penalty, x.T @ y), origin, own
    if kind in ("least_squares", "affine"):
        return _least_squares(x, y), origin, own
    if kind == "landmark":
        few = min(*x.shape, *y.shape)
        ours, theirs = (torch.linalg.svd(each, full_matrices=False).Vh[:few] for each in (x, y))
        left, _, right = torch.linalg.svd((x @ ours.T).T @ (y @ theirs.T))
        return ours.T @ (left @ right) @ theirs, origin, own
    left, singular, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    scale = float(singular.sum() / (x**2).sum()) if kind == "scaled" else 1.0
    return scale * (left @ right), origin, own


def project(targets: Tensor, there: Tensor, here: Tensor, *, kind: str, ridge: float = 0.0) -> Tensor:
    """Returns the targets sent through the linear map that the shared tokens teach; see `linear_map`."""
    matrix, origin, own = linear_map(there, here, kind, ridge)
    return (targets - origin) @ matrix + own
