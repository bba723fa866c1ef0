"""Least squares with a Gram matrix, stable where the data does not determine the answer."""

from eutectic.numerics.tensors import Tensor, torch

#: What float32 sums of products cannot tell from zero, relative to what they were summed from.
NOISE = 1.2e-7


def gram_rows(gram: Tensor, most: int, floor: float = NOISE) -> Tensor:
    """Returns rows whose products are a Gram matrix of few rows: (d, d) of rank at most `most` -> (r, d), r <= most.

    By Cholesky with pivots: `gram` is rows^T rows, but for what is left once no channel has more than `floor` of the
    largest one's energy. Float64.
    """
    left = gram.diagonal().double().clone()
    least = floor * float(left.max()) if len(left) else 0.0
    rows = torch.zeros(min(most, len(gram)), len(gram), dtype=torch.float64)
    for at in range(len(rows)):
        pivot = int(left.argmax())
        if float(left[pivot]) <= least:
            return rows[:at]
        row = gram[pivot].double() - rows[:at, pivot] @ rows[:at]
        rows[at] = row / left[pivot].sqrt()
        left -= rows[at].square()
        left[pivot] = 0.0
    return rows


def solve_gram(gram: Tensor, right: Tensor) -> Tensor:
    """Returns the least x with gram @ x = right: (d, d) positive semi-definite, (d, m) -> (d, m), float64.

    By Cholesky in unit-diagonal scaling. Where a channel is a combination of others up to the noise of float32, the
    minimum-norm solution in that scaling, without what lies below the noise.
    """
    diagonal = gram.diagonal()
    used = diagonal > 0
    if not bool(used.all()):
        found = torch.zeros_like(right)
        if bool(used.any()):
            found[used] = solve_gram(gram[used][:, used], right[used])
        return found
    scale = diagonal.rsqrt().unsqueeze(1)
    scaled = gram * scale * scale.mT
    factor, failed = torch.linalg.cholesky_ex(scaled)
    if int(failed) == 0 and float(factor.diagonal().min()) ** 2 > NOISE:
        del scaled
        return torch.cholesky_solve(right * scale, factor) * scale
    values, vectors = torch.linalg.eigh(scaled)
    kept = values > NOISE * len(values) * values[-1]
    vectors, values = vectors[:, kept], values[kept]
    solved: Tensor = (vectors @ ((vectors.mT @ (right * scale)) / values.unsqueeze(1))) * scale
    return solved
