"""Every golden case, from files to a folder, through the public interface."""

from pathlib import Path

import pytest

from . import (
    adapters,
    align,
    anchors,
    coefficients,
    conflicts,
    draws,
    learned,
    loras,
    mergekit,
    networks,
    official,
    routed,
)
from .cases import Case, families, not_built


def test_golden(case: Case, tmp_path: Path) -> None:
    """The case comes out as its reference wrote it, or is refused where its reference refuses it."""
    waiting = not_built()
    if case.name in waiting or case.folder.name in waiting:
        pytest.skip(f"{case.name} waits for its method")
    kinds = (
        coefficients,
        mergekit,
        official,
        draws,
        align,
        anchors,
        adapters,
        loras,
        networks,
        conflicts,
        learned,
        routed,
    )
    runners = [kind.check for kind in kinds if kind.knows(case)]
    assert len(runners) == 1, f"the runner does not know {case.name}; add it, or name it in not_built.txt"
    runners[0](case, tmp_path)


def test_nothing_waits_and_runs() -> None:
    """A case that has been built is struck off the list of those that wait."""
    copied = {folder.name for family in families() for folder in family.iterdir() if folder.is_dir()}
    assert copied
    assert not copied & not_built()
