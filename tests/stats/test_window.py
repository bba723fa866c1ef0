"""How often all is counted until a rank is found; that the right one is found is held to sorting in tests/laws."""

import pytest
import torch

from eutectic.stats.fold import Again, Part, Scope
from eutectic.stats.quantiles import MagnitudeQuantile
from eutectic.stats.window import magnitude_patterns, tally


@pytest.mark.parametrize("seed", range(4))
def test_one_full_count_finds_ranks_among_brain_floats(seed: int) -> None:
    """Differences of bfloat16 numbers lie on few patterns: a sample leads to the right one, or to its neighbour."""
    draw = torch.Generator().manual_seed(seed)
    base = (0.02 * torch.randn(1, 1 << 21, generator=draw)).bfloat16().float()
    deltas = (base + 0.002 * torch.randn(base.shape, generator=draw)).bfloat16().float() - base
    patterns, ordered = magnitude_patterns(deltas), deltas.abs().reshape(-1).sort().values
    counts = []
    for density in (0.9, 0.51, 0.5, 0.2, 0.1, 0.01):
        statistic = MagnitudeQuantile(Scope.TENSOR, (density,), "exact")
        state, found = statistic.init([Part("w", deltas.numel(), deltas.shape)], 1, False), None
        assert state.sampling > 1
        counts.append(0)
        while not isinstance(found, tuple):
            counts[-1] += state.sampling == 1
            tally(state, patterns[:, :: state.sampling])
            found = statistic.finish(state)
            state = found.state if isinstance(found, Again) else state
        assert found == (float(ordered[-int(density * deltas.numel())]),)
    assert max(counts) <= 2
    assert sum(counts) <= len(counts) + 2
