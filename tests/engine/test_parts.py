from pathlib import Path

import pytest
import torch

from eutectic.engine.parts import factor_site, numbers, read_matrix, read_part
from eutectic.errors import UndeclaredNeed
from eutectic.methods import get
from tests.make.factors import updates
from tests.make.memory import MemorySource
from tests.plan.test_factored import opened, sites


def test_stored_factors_are_read_as_they_are(tmp_path: Path) -> None:
    """A is (r, d_in), B (d_out, r), and the scale is the adapter's; in double precision where asked."""
    models = opened(tmp_path, 2, 3)
    part = read_part(models, sites(models)[0], 1, False)
    assert (part.b.shape, part.a.shape, part.scale) == ((12, 3), (3, 20), 4 / 3)
    assert read_part(models, sites(models)[0], 1, True).b.dtype == torch.float64


def test_a_site_of_factors_has_nothing_else() -> None:
    """Deltas and tensors are what other methods see."""
    parts = updates(2)
    (site,) = sites_of(parts)
    assert site.factors == parts
    assert site.n == 2
    for name in ("deltas", "tensors", "base"):
        with pytest.raises(UndeclaredNeed):
            getattr(site, name)


def sites_of(parts: tuple) -> list:  # type: ignore[type-arg]
    """Returns a site of these updates."""
    named = type("Named", (), {"name": "w"})()
    return [factor_site(named, parts, 0)]


def test_numbers_come_one_an_adapter() -> None:
    """Per-model values as (n,) in double precision, others as they are."""
    found = numbers(get("peft"), {"weight": (0.5, 2.0), "type": "cat"})
    assert found["weight"].tolist() == [0.5, 2.0]
    assert found["weight"].dtype == torch.float64
    assert found["type"] == "cat"


def test_matrices_are_read_whole() -> None:
    """In their own precision."""
    for dtype in (torch.float32, torch.float64):
        matrix = torch.arange(6, dtype=dtype).reshape(2, 3)
        assert torch.equal(read_matrix(MemorySource({"w": matrix}), "w"), matrix)
