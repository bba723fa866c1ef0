from pathlib import Path

import pytest

from eutectic import speed

GIB = 1 << 30


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_last_speed_is_kept() -> None:
    """None before a run; then bytes over seconds, the latest one."""
    assert speed.last() is None
    speed.record(GIB, 2.0)
    assert speed.last() == GIB / 2
    speed.record(GIB, 4.0)
    assert speed.last() == GIB / 4


def test_short_runs_say_nothing() -> None:
    """A run of a moment or of a few bytes measures the start-up, not the disk."""
    speed.record(GIB, 0.1)
    speed.record(1000, 5.0)
    assert speed.last() is None


def test_a_cache_that_cannot_be_used_is_no_error(cache: Path) -> None:
    """A file where the folder should be; text where the number should be."""
    (cache / "eutectic").write_text("a file")
    speed.record(GIB, 1.0)
    assert speed.last() is None
    (cache / "eutectic").unlink()
    (cache / "eutectic").mkdir()
    (cache / "eutectic" / "speed").write_text("fast")
    assert speed.last() is None
