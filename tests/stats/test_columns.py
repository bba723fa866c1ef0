"""What is learned for channels is asked for at linear maps alone, and known by its settings."""

from eutectic.stats.columns import ColumnWeights
from eutectic.stats.fold import Accumulated, Sees

PLAIN = ColumnWeights(0.01, "paper", 100, 0.01)


def test_maps_alone() -> None:
    """Scales and gradients have none."""
    assert [each for each in Sees if PLAIN.takes(each)] == [Sees.INPUTS]


def test_settings_are_its_identity() -> None:
    """Equal settings are learned once, others apart; it is no fold that one model's data could fill."""
    assert ColumnWeights(0.01, "paper", 100, 0.01) == PLAIN
    assert (
        len({PLAIN.key, *(ColumnWeights(0.01, "code", 100, 0.01).key, ColumnWeights(0.0, "paper", 100, 0.01).key)}) == 3
    )
    assert not isinstance(PLAIN, Accumulated)
