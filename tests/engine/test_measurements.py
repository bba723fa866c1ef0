from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.engine.measurements import Measurements, measurements
from eutectic.plan.steps import Feed, Merged
from eutectic.stats.fold import Norm
from eutectic.stats.gradients import FisherDiagonal
from eutectic.stats.inputs import InputGram
from eutectic.stats.store import Outcome, Store
from tests.plan.test_demands import step

F32 = DTYPES["F32"]
FISHER, GRAM = FisherDiagonal("exact"), InputGram()


def site(name: str, method: str = "fisher") -> Merged:
    """A site of two models."""
    return Merged(TensorSpec(name, (2, 3), F32), (step(method),), None, (Feed(0, name, F32, 6), Feed(1, name, F32, 6)))


@pytest.fixture
def found(tmp_path: Path) -> Measurements:
    """Diagonals of two tensors, and a Gram matrix of one."""
    results = {}
    for source in range(2):
        diagonal = Store(tmp_path).results({"fisher": source})
        tensors = {name: Outcome(1, 0, torch.arange(6.0).reshape(2, 3) + source) for name in ("a", "b")}
        diagonal.write("rest", tensors)
        gram = Store(tmp_path).results({"gram": source})
        gram.write("rest", {"a": Outcome(4, 1, torch.eye(3) * (source + 1))}, symmetric=True)
        results |= {(FISHER, source): diagonal, (GRAM, source): gram}
    return Measurements(results)


def test_what_is_aligned_is_sliced(found: Measurements) -> None:
    """The slice of results that belongs to the slice of weights, models first."""
    whole = found.read(FISHER, site("a"), 0, (2, 3))
    assert whole.shape == (2, 2, 3)
    assert torch.equal(found.read(FISHER, site("a"), 2, (3,)), whole.reshape(2, 6)[:, 2:5])


def test_other_results_are_read_one_at_a_time(found: Measurements) -> None:
    """As they are asked for."""
    measured = found.read(GRAM, site("a", "regmean"), 0, (2, 3))
    assert [each.rows for each in measured] == [4, 4]
    assert torch.equal(measured[1].load(), 2 * torch.eye(3))


def test_norms_are_over_all_sites_that_read_them(found: Measurements) -> None:
    """Each model's own: 2 (0 + 1 + 4 + 9 + 16 + 25) = 110 under the root, and 2 (1 + ... + 36) = 182."""
    found.settle([site("a"), site("b")])
    assert found.read(Norm(FISHER), site("b"), 0, (2, 3)) == pytest.approx((110**0.5, 182**0.5))
    found.settle([site("a")])
    assert found.read(Norm(FISHER), site("a"), 0, (2, 3)) == pytest.approx((55**0.5, 91**0.5))


def test_what_no_sample_reached_is_told(found: Measurements) -> None:
    """A result that a site reads and that does not exist."""
    assert found.lacks(site("a", "regmean")) == frozenset()
    assert found.lacks(site("b", "regmean")) == {0}
    assert found.lacks(site("b", "linear")) == frozenset()
    longer = replace(site("a"), spec=TensorSpec("a", (3, 3), F32))  # rows that the models do not have
    assert found.lacks(longer) == {0}
    both = replace(site("b"), steps=(step("fisher"), step("regmean")))
    assert found.lacks(both) == {1}


def test_plans_without_data_have_none() -> None:
    """Nothing is opened."""
    assert measurements((), None) is None
