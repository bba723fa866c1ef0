"""The measuring itself: what is generated, what counts as copying, what a process costs."""

import sys
from pathlib import Path

import pytest
import torch
from benchmarks.make_models import SHAPES, Shape
from safetensors.torch import load_file

from benchmarks import copy_limit, make_models, measure, numerics

TINY = Shape(hidden=16, layers=2, heads=2, kv_heads=1, ffn=24, vocab=40)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[Path]]:
    """A tiny base and two experts."""
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    return make_models.model_folders("tiny", 2, tmp_path)


def test_models_are_what_they_say(folders: tuple[Path, list[Path]]) -> None:
    """Names, shapes and dtypes are Llama's; the experts lie a tenth of the base's spread away from it."""
    base, experts = (load_file(next(path.glob("*.safetensors"))) for path in (folders[0], folders[1][0]))
    assert {name: tuple(tensor.shape) for name, tensor in base.items()} == TINY.tensors()
    assert {tensor.dtype for tensor in base.values()} == {torch.bfloat16}
    head = base["lm_head.weight"].float()
    assert 0.018 < float(head.std()) < 0.022
    assert 0.0018 < float((experts["lm_head.weight"].float() - head).std()) < 0.0022


def test_models_do_not_depend_on_threads(folders: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """Any number of threads writes the same bytes, and models differ from one another."""
    again, others = make_models.model_folders("tiny", 2, tmp_path / "again", threads=7)
    first, second = (next(folder.glob("*.safetensors")).read_bytes() for folder in (folders[0], again))
    assert first == second
    assert next(others[0].glob("*.safetensors")).read_bytes() != next(others[1].glob("*.safetensors")).read_bytes()


@pytest.mark.parametrize("block", [4096, 100, 1 << 20])
def test_copy_limit_copies(folders: tuple[Path, list[Path]], tmp_path: Path, block: int) -> None:
    """The copy is the first input, byte for byte, and every input was read whole."""
    base, experts = folders
    limit = copy_limit.copy_limit([base, *experts], tmp_path / "copy", threads=3, block=block)
    file = next(base.glob("*.safetensors"))
    assert (tmp_path / "copy" / file.name).read_bytes() == file.read_bytes()
    assert limit.read == 3 * limit.written == 3 * file.stat().st_size


def test_run_measures_a_process() -> None:
    """CPU time and anonymous memory are the child's own, and what it printed comes back."""
    program = "import time; x = bytearray(64 << 20); x[::4096] = b'1' * len(x[::4096]); sum(range(10**7)); print('ok')"
    cost = measure.run([sys.executable, "-c", program + "; time.sleep(0.1)"])
    assert cost.output == "ok\n"
    assert cost.anonymous > 60 << 20
    assert 0.02 < cost.cpu < 60
    assert cost.wall > 0.1


def test_run_reports_failure() -> None:
    """A command that fails says so, with its own words."""
    with pytest.raises(RuntimeError, match="no such luck"):
        measure.run([sys.executable, "-c", "raise SystemExit('no such luck')"])


def test_exact_ties_by_hand() -> None:
    """Kept: 5 and 4 of model one, -6 and 3 of model two; the first element votes -1 and takes -6, the last averages."""
    base = torch.tensor([1.0, 1.0, 1.0, 1.0]).double()
    models = base + torch.tensor([[5.0, 0.1, 0.2, 4.0], [-6.0, 0.3, 0.1, 3.0]]).double()
    cuts = torch.tensor([4.0, 3.0]).double() - 1e-9
    assert numerics.exact_ties(base, models, cuts).tolist() == pytest.approx([-5.0, 1.0, 1.0, 4.5])
