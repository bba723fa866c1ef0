"""What a plan knows of its sites."""

from pathlib import Path

import torch

from eutectic.methods.declare import Locality
from eutectic.plan.steps import Memory, work_double
from tests.plan.small import NORM, Q, merged, plan, recipe, tensors


def test_locality_and_kernels(tmp_path: Path) -> None:
    """A chain must see as much as its most demanding method; the kernels serve some that go by rows."""
    given = (tensors(), tensors(), tensors())
    site = merged(plan(recipe(tmp_path, *given, method=[{"dare": {"density": 0.5}}, "linear"])), NORM)
    assert site.locality is Locality.ELEMENT
    assert site.fused
    rows = merged(
        plan(recipe(tmp_path, *given, method=[{"dare": {"density": 0.5}}, {"model_stock": {"rows": True}}])), NORM
    )
    assert rows.locality is Locality.ROW
    assert not rows.fused
    ranked = plan(recipe(tmp_path, *given, method=[{"della": {"density": 0.5}}, "linear"]))
    assert [(each.locality, each.fused) for each in ranked.merged[:1]] == [(Locality.ROW, True)]
    assert merged(ranked, Q.format(1)).width == merged(ranked, Q.format(1)).spec.shape[1]
    assert merged(ranked, NORM).width == merged(ranked, NORM).spec.numel
    assert site.width == 1


def test_feeds(tmp_path: Path) -> None:
    """The base's row comes first."""
    site = merged(plan(recipe(tmp_path, tensors(), tensors(), tensors(), method="task_arithmetic")), Q.format(1))
    assert site.feeds == (site.base, *site.models)
    assert [feed.source for feed in site.feeds] == [0, 1, 2]


def test_work_precision(tmp_path: Path) -> None:
    """Double precision where the recipe or an input has it, and never where the recipe forbids it."""
    wide = tensors(norm=torch.ones(4, dtype=torch.float64))
    for dtype, norm, other in (("auto", True, False), ("float32", False, False), ("float64", True, True)):
        found = plan(recipe(tmp_path, tensors(), wide, tensors(), dtype=dtype))
        assert work_double(found.recipe, merged(found, NORM)) is norm
        assert work_double(found.recipe, merged(found, Q.format(0))) is other


def test_memory_adds_up() -> None:
    """The peak is the sum of its parts."""
    assert Memory(1, 20, 300).peak == 321
