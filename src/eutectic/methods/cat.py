"""CAT Merging: takes out of every task's movement what disturbs the layers of the other tasks most.

Source: Sun et al., CAT Merging: A Training-Free Approach for Resolving Conflicts in Model Merging, ICML 2025,
arXiv:2505.06977. For each task k, of a linear map: B_k, the eigenvectors of the `directions` largest eigenvalues of
G_k = sum over i != k of T_i (X_k^T X_k - lambda X_i^T X_i) T_i^T, and T_i <- (I - B_k B_k^T) T_i; of a norm's scale,
the channels z of the largest sum over i != k of (s_k,z - lambda s_i,z) T_i,z^2, with s the sums of the squares that it
multiplies; of a shift those of the largest sum of T_i,z^2; in these the T_i become 0. All are found from the first T,
then applied for k = 1, 2, ... to every T_i but the k-th. The merge that follows adds up what is left (0.2 to 0.6 of
it). `preserve_norm` and `scores: mean` are what is known of the authors' code.
Departs: a convolution is the map of its unfolded patches; grouped ones, embeddings, positions and heads are left as
they are. `lambda` has no published default. Query, key and value in one tensor are three maps where its name and size
say that they lie one behind the other, else one.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Annotated, Literal

from eutectic.methods.declare import Bounds, Domain, Laws, Locality, Needs, NonNegative, Paper, transform
from eutectic.methods.site import Site
from eutectic.numerics.leading import leading
from eutectic.numerics.solve import gram_rows
from eutectic.numerics.tensors import Tensor, torch
from eutectic.stats.fold import Calibrated, Sees
from eutectic.stats.inputs import InputGram, InputMoments
from eutectic.stats.store import Measured

#: Takes out of a movement what disturbs one task.
Trim = Callable[[Tensor], Tensor]


def _calibrated(*, directions: int, **_: object) -> Mapping[str, Calibrated]:
    return {"gram": InputGram(), "scales": InputMoments("each", "scales")} if directions else {}


def _scratch(n: int, shape: tuple[int, ...]) -> float:
    """Float32 elements: the movements and all Gram matrices in float64, and the directions that are tried."""
    if len(shape) < 2:
        return 16.0 * n * sum(shape)
    width = torch.Size(shape[1:]).numel()
    widest = max(shape[0], width) if len(shape) == 2 else width  # GPT-2's inputs lie along the first axis
    return (2.0 * n + 2.0) * widest**2 + 4.0 * n * shape[0] * width + 1200.0 * max(shape[0], width)


@transform(
    Paper("arXiv:2505.06977", "CAT Merging", 2025),
    needs=Needs(base=True, locality=Locality.TENSOR, domain=Domain.LAYERS, scratch=_scratch),
    laws=Laws(symmetric=False, fixed_point=True, identity=False, shift=True, scale=True),
    calibrated=_calibrated,
)
def cat(
    site: Site,
    *,
    directions: Annotated[int, Bounds(0)] = 2,
    balance: NonNegative = 1.0,
    positive_only: bool = False,
    preserve_norm: bool = False,
    scores: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Trims what disturbs other tasks: (n, *shape), what each meets -> (n, *shape).

    Of maps it reads n Gram matrices (d_in, d_in), of scales n rows of squares (d,), of shifts nothing.

    Args:
        directions: how many directions of a map's outputs, or channels of a scale or shift, are taken out for each
            task (c). Published: 2 for CLIP B/32, 3 for L/14.
        balance: how much what a task loses itself counts against what it disturbs (lambda). Without, results collapse.
        positive_only: take out only what disturbs more than it helps.
        preserve_norm: give each movement its length back after every trim.
        scores: whether a task's squares at a scale are summed over its rows, or averaged.
    """
    deltas = site.deltas
    if not bool(deltas.isfinite().all()):
        return torch.full_like(deltas, float("nan"))
    if not deltas.numel() or not directions:
        return deltas
    moves = deltas.double()
    chosen = (balance, directions, positive_only)
    if site.meets is not Sees.INPUTS:
        squares = _squares(site, scores)
        parts = moves.chunk(site.stacked if squares is None else 1, 1)
        trims = [[_mask(k, part, squares, *chosen) for k in range(site.n)] for part in parts]
        return torch.cat(list(map(_apply, trims, parts, repeat(preserve_norm))), 1).to(deltas)
    found: Sequence[Measured] = site.fold("gram")
    transposed = found[0].axis == 0  # GPT-2 stores (d_in, d_out)
    flat = moves.mT if transposed else moves.flatten(2)
    grams = [gram for each in found if (gram := _through(each, flat.shape[-1])) is not None]
    if len(grams) < site.n:  # groups of channels
        return deltas
    parts = flat.chunk(site.stacked, 1)
    trims = [[_project(k, part, grams, *chosen) for k in range(site.n)] for part in parts]
    trimmed = torch.cat(list(map(_apply, trims, parts, repeat(preserve_norm))), 1)
    return (trimmed.mT if transposed else trimmed.reshape(moves.shape)).to(deltas)


def _squares(site: Site, scores: str) -> Tensor | None:
    """What a scale multiplies, squared: (n, d); None of a shift, whose samples are all alike."""
    if site.meets is None:
        return None
    found: Sequence[Measured] = site.fold("scales")
    rows = [each.load()[1].double() / (max(1, each.rows) if scores == "mean" else 1) for each in found]
    return torch.stack(rows)


def _mask(k: int, moves: Tensor, squares: Tensor | None, balance: float, count: int, positive: bool) -> Trim:
    """Zeroes the channels in which the others disturb task k most; of equal ones the first."""
    weighed = moves.square() if squares is None else (squares[k] - balance * squares) * moves.square()
    weighed[k] = 0.0
    score, order = weighed.sum(0).sort(descending=True, stable=True)
    order = order[:count][score[:count] > 0] if positive else order[:count]
    kept = torch.ones_like(score).index_fill(0, order, 0.0)
    return lambda move: move * kept


def _through(found: Measured, width: int) -> Trim | None:
    """Multiplies rows, (k, d_in), with a Gram matrix, by the few rows it is of if so. None if there is one a group."""
    gram = found.load()
    if gram.dim() > 2 and gram.shape[0] > 1:
        return None
    if 4 * found.rows <= width:
        few = gram_rows(gram, found.rows)
        return lambda rows: (rows @ few.mT) @ few
    whole = gram.reshape(width, width).double()
    return lambda rows: rows @ whole


def _project(k: int, moves: Tensor, grams: Sequence[Trim], balance: float, count: int, positive: bool) -> Trim:
    """Takes out the directions of the outputs, (d_out, c), along which the others disturb task k most."""

    def disturbed(vectors: Tensor) -> Tensor:
        rows = vectors.mT  # vectors lie in rows: a library's product of a few columns may take thirty times as long
        total = torch.zeros_like(rows)
        for i, move in enumerate(moves):
            if i != k:
                moved = rows @ move
                total += (grams[k](moved) - balance * grams[i](moved)) @ move.mT
        return total.mT

    values, vectors = leading(disturbed, moves.shape[1], count)
    vectors = vectors[:, values > 0] if positive else vectors
    return lambda move: move - vectors @ (vectors.mT @ move)


def _apply(trims: Sequence[Trim], moves: Tensor, preserve_norm: bool) -> Tensor:
    """Trims every movement for every other task, in the tasks' order."""
    trimmed = list(moves)
    for k, trim in enumerate(trims):
        for i, move in enumerate(trimmed):
            if i == k:
                continue
            trimmed[i] = trim(move)
            if preserve_norm:
                left = trimmed[i].norm()
                trimmed[i] = trimmed[i] * (move.norm() / left if left > 0 else 1.0)
    return torch.stack(trimmed)
