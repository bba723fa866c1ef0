"""What observers hear, in order; that they change nothing but can stop a run."""

from pathlib import Path

import pytest

import eutectic
from eutectic.engine.events import Finished, Progress, Started
from tests.engine.family import Stop, StopAfter, digests, recipes


def test_order(small: Path, tmp_path: Path) -> None:
    """A start, growing progress, an end; to each observer."""
    heard: list[object] = []
    also: list[object] = []
    plan = eutectic.plan(recipes(small, big=False)["rules"], threads=2)
    receipt = eutectic.run(plan, tmp_path / "out", watch=[heard.append, also.append])
    assert heard == also
    assert heard[0] == Started(plan.reads, plan.writes, False)
    assert heard[-1] == Finished(receipt.seconds, plan.writes)
    middle = [event for event in heard[1:-1] if isinstance(event, Progress)]
    assert len(middle) == len(heard) - 2
    assert [event.read for event in middle] == sorted(event.read for event in middle)
    assert {event.doing for event in middle} == {"copying", "measuring", "merging"}
    assert middle[-1].read > 0.9 * plan.reads


def test_resumed(small: Path, tmp_path: Path) -> None:
    """A run that goes on says so, and reads less."""
    recipe = recipes(small, big=False)["extra: copy"]
    with pytest.raises(Stop):
        eutectic.run(eutectic.plan(recipe, threads=1), tmp_path / "out", watch=[StopAfter(0.7)])
    heard: list[object] = []
    plan = eutectic.plan(recipe, threads=1)
    eutectic.run(plan, tmp_path / "out", watch=[heard.append])
    assert heard[0] == Started(plan.reads, plan.writes, True)
    read = max(event.read for event in heard if isinstance(event, Progress))
    assert read < 0.7 * plan.reads


def test_observers_change_nothing(small: Path, tmp_path: Path) -> None:
    """With and without observers the same bytes."""
    recipe = recipes(small, big=False)["rules"]
    eutectic.run(eutectic.plan(recipe), tmp_path / "quiet")
    eutectic.run(eutectic.plan(recipe), tmp_path / "watched", watch=[lambda event: None])
    assert digests(tmp_path / "quiet") == digests(tmp_path / "watched")
