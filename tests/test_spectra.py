from pathlib import Path

import pytest

from eutectic import spectra


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "eutectic" / "ranks"


def test_ranks_are_known_for_the_same_tensors() -> None:
    """Others, and other digests, are not."""
    spectra.record("abc", {"q": 3, "v": 1})
    assert spectra.known("abc", frozenset("qv")) == {"q": 3, "v": 1}
    assert spectra.known("abc", frozenset("q")) is None
    assert spectra.known("abd", frozenset("qv")) is None


def test_a_spoilt_cache_is_not_believed(cache: Path) -> None:
    """Nor does one that cannot be written matter."""
    cache.mkdir(parents=True)
    for raw in ("{", "[]", '{"q": 0}', '{"q": "3"}', '{"q": true}'):
        (cache / "abc.json").write_text(raw)
        assert spectra.known("abc", frozenset("q")) is None
    (cache / "dir.json").mkdir()
    spectra.record("dir", {"q": 1})
    assert spectra.known("dir", frozenset("q")) is None
