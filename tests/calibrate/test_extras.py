import sys

import pytest

from eutectic.calibrate.extras import load
from eutectic.errors import CalibrationError


def test_what_is_there_is_loaded() -> None:
    """A module by its dotted name."""
    assert load("transformers", "this").__name__ == "transformers"


def test_what_is_not_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra's name, and what wanted it."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(CalibrationError, match=r"this needs datasets, .* pip install 'eutectic\[data\]'"):
        load("datasets", "this")
