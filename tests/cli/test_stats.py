from pathlib import Path

import pytest

from eutectic.cli.stats import stats
from eutectic.stats.store import Store


def test_unfinished_results_are_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an interrupted calibration left is listed as such."""
    facts = {"statistic": "InputGram", "model": "m", "samples": 3, "data": "d"}
    Store(tmp_path).results(facts).write("rest", {})
    stats(tmp_path, None, False, False)
    printed = capsys.readouterr().out
    assert "InputGram of m on 3 samples of d, unfinished" in printed
    assert "1 results" in printed
