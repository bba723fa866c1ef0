from pathlib import Path
from typing import Any

import pytest

import eutectic
from eutectic.calibrate.prepare import jobs, spills
from eutectic.engine.meter import Meter
from tests.make.transformer import config, family, texts


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts with texts."""
    folder = tmp_path_factory.mktemp("llamas")
    family(folder, "LlamaForCausalLM", config("llama", hidden_size=64, intermediate_size=512, num_hidden_layers=6))
    texts(folder / "data.jsonl", 12)
    return folder


def recipe(folder: Path, **calibration: Any) -> eutectic.Recipe:
    """RegMean of both."""
    models = [{"model": str(folder / f"expert{k}"), "name": f"e{k}"} for k in range(2)]
    said = {"data": str(folder / "data.jsonl"), **calibration}
    return eutectic.merge(models, base=str(folder / "base"), method="regmean", calibration=said)


def test_a_plan_says_what_calibration_does(llamas: Path, tmp_path: Path) -> None:
    """Passes, memory, and as data; nothing is run and nothing stored."""
    plan = eutectic.plan(recipe(llamas, samples={"e0": 3, "e1": 5}), store=tmp_path)
    assert plan.calibration is not None
    text = plan.explain()
    assert "3 samples of" in text
    assert "InputGram" in text
    assert plan.describe()["calibration"]["finished"] == [False, False]
    assert plan.peak >= plan.calibration.peak > 0
    assert plan.calibration.operations > 0
    assert list(tmp_path.iterdir()) == []
    assert [len(job.samples.rows) for job in jobs(plan)] == [3, 5]


def test_the_price_is_kept(llamas: Path, tmp_path: Path) -> None:
    """What calibrating really holds, beyond the libraries, is below the plan."""
    from eutectic.api import runs

    runs.calibrate(eutectic.plan(recipe(llamas, samples=2), store=tmp_path / "warm"))
    plan = eutectic.plan(recipe(llamas), store=tmp_path / "store")
    with Meter() as meter:
        runs.calibrate(plan)
    assert plan.calibration is not None
    assert meter.peak <= plan.calibration.peak


def test_more_data_costs_more(llamas: Path, tmp_path: Path) -> None:
    """Samples cost time; batches and lengths cost memory; activations that are large wait on disk."""
    small, large = (eutectic.plan(recipe(llamas, samples=n), store=tmp_path).calibration for n in (2, 12))
    assert small is not None
    assert large is not None
    assert small.operations < large.operations
    tight = eutectic.plan(recipe(llamas), store=tmp_path, memory="100MiB")
    assert not any(spills(tight, job) for job in jobs(tight))


def test_jobs_differ_by_their_data(llamas: Path, tmp_path: Path) -> None:
    """An output is its data's too: other samples are another job."""
    one, other = (eutectic.plan(recipe(llamas, samples=n), store=tmp_path).job for n in (3, 4))
    assert one != other


def test_methods_without_data_are_not_asked_for_it(llamas: Path, tmp_path: Path) -> None:
    """A section that nothing reads is no error."""
    made = recipe(llamas).model_copy(update={"method": eutectic.merge(["a"], method="linear").method})
    assert eutectic.plan(made, store=tmp_path).calibration is None
