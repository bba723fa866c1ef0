"""The meter sees memory that is taken and given back between its samples' ends."""

import time

import numpy as np

from eutectic.engine.meter import Meter, anonymous_bytes

MIB = 1 << 20


def test_anonymous_memory() -> None:
    """A process holds some memory, and more once more is touched."""
    before = anonymous_bytes()
    held = np.ones(96 * MIB, np.uint8)  # too large to come from what is free already
    assert anonymous_bytes() - before > 90 * MIB
    assert before > MIB
    assert held[0]


def test_peak() -> None:
    """What was held for a while and is free again counts; what was held before does not."""
    with Meter() as meter:
        held = np.ones(64 * MIB, np.uint8)
        time.sleep(0.1)
        del held
    assert 60 * MIB < meter.peak < 80 * MIB
    with Meter() as idle:
        time.sleep(0.05)
    assert idle.peak < 8 * MIB
    assert idle.before > 0


def test_it_stops() -> None:
    """After its end it samples no more."""
    with Meter() as meter:
        pass
    peak = meter.peak
    held = np.ones(32 * MIB, np.uint8)
    time.sleep(0.05)
    assert meter.peak == peak
    assert not meter._thread.is_alive()
    assert held[0]
