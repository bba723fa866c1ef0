"""What anchors are like: their spectrum, whether they lie where real features lie, and what their updates are made of.

Source: Model Merging with Functional Dual Anchors, arXiv:2510.21223, section 5.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch

_COLOURS = ("#1f6fb4", "#d1622b", "#3a8f4d", "#8456a8", "#8a6d3b", "#c2457f", "#5f6b76", "#2a9d9d")


def spectrum(features: Tensor) -> Tensor:
    """Returns the singular values of features (..., d), flattened to rows, divided by the largest."""
    values: Tensor = torch.linalg.svdvals(features.reshape(-1, features.shape[-1]).double())
    return values.div(values[0]) if float(values[0]) > 0 else values


def subspace_similarity(one: Tensor, other: Tensor, share: float = 0.2) -> float:
    """Returns how much the spaces of the leading directions of two sets of features agree, between 0 and 1.

    That is tr(U U^T V V^T) / k for the k = share * d first right singular vectors of each, features (..., d).

    Raises:
        CalibrationError: when the widths differ, or there are fewer rows than directions.
    """
    width = one.shape[-1]
    if other.shape[-1] != width:
        raise CalibrationError(f"expected features of one width, found {width} and {other.shape[-1]}")
    k = max(1, int(share * width))
    rows = [each.reshape(-1, width).double() for each in (one, other)]
    if min(len(each) for each in rows) < k:
        raise CalibrationError(f"expected at least {k} rows for {k} directions, found {min(map(len, rows))}")
    first, second = (torch.linalg.svd(each, full_matrices=False).Vh[:k] for each in rows)
    return float((first @ second.T).square().sum() / k)


def nonnegative(updates: Tensor, target: Tensor) -> Tensor:
    """Returns the coefficients a >= 0 of min |target - updates a|, (m,), for updates (elements, m).

    Source: Lawson and Hanson, Solving Least Squares Problems, 1974, algorithm NNLS.
    """
    matrix, goal = updates.double().numpy(), target.double().numpy()
    found = np.zeros(matrix.shape[1])
    free = np.zeros(matrix.shape[1], bool)
    gradient = matrix.T @ goal
    limit = 1e-12 * max(1.0, float(np.abs(gradient).max(initial=0.0)))
    for _ in range(10 * matrix.shape[1] + 10):
        if free.all() or float(gradient[~free].max()) <= limit:
            break
        free[np.where(free, -np.inf, gradient).argmax()] = True
        while True:
            trial = np.zeros_like(found)
            trial[free] = np.linalg.lstsq(matrix[:, free], goal, rcond=None)[0]
            below = free & (trial <= 0)
            if not below.any():
                found = trial
                break
            step = float((found[below] / (found[below] - trial[below])).min())
            found = found + step * (trial - found)
            free &= found > 1e-14
            found[~free] = 0.0
        gradient = matrix.T @ (goal - matrix @ found)
    return torch.from_numpy(found)


def projection_energy(updates: Tensor, target: Tensor) -> float:
    """Returns |updates a| / |target| for the best a >= 0: the share of an update that real updates make up."""
    if float(target.norm()) == 0:
        raise CalibrationError("expected an update that changes something, found zeros")
    made = updates.double() @ nonnegative(updates, target)
    return float(made.norm() / target.double().norm())


def draw_lines(lines: Mapping[str, Sequence[float]], title: str, across: str, *, log: bool = True) -> str:
    """Returns an SVG picture of a few lines over their index; with `log` the height is logarithmic."""
    width, height, left, top, right, bottom = 640, 400, 60, 40, 160, 50
    floor = 1e-6
    values = [max(v, floor) if log else v for line in lines.values() for v in line]
    if not values:
        raise CalibrationError("expected lines to draw, found none")
    low, high = min(values), max(values)
    ticks = _decades(low, high) if log else [low + (high - low) * i / 4 for i in range(5)]
    low, high = min(low, *ticks), max(high, *ticks)

    def up(value: float) -> float:
        a, b, v = np.log10([low, high, max(value, floor)]) if log else (low, high, value)
        return height - bottom - (height - top - bottom) * float((v - a) / ((b - a) or 1))

    longest = max(len(line) for line in lines.values())

    def over(index: int) -> float:
        return left + (width - left - right) * index / max(1, longest - 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="22" font-size="14">{_escaped(title)}</text>',
        f'<g font-size="12"><text x="{left}" y="{height - 12}">{_escaped(across)}, 0 to {longest - 1}</text>',
    ]
    for tick in ticks:
        y = up(tick)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{over(i):.1f},{up(v):.1f}" for i, v in enumerate(line))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = top + 16 * number + 10
        parts.append(f'<text x="{width - right + 10}" y="{y}" fill="{colour}">{_escaped(name)}</text>')
    return "\n".join([*parts, "</g></svg>", ""])


def _decades(low: float, high: float) -> list[float]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
