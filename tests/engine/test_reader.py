"""Rows of a slice, read into an arena that is reused."""

from pathlib import Path

import numpy as np
import torch

import eutectic
from eutectic.engine.reader import Worker, read_rows
from eutectic.engine.run import chains_of
from eutectic.numerics.precision import widen
from eutectic.plan.memory import arena_bytes
from tests.engine.sites import chain, normal, planned
from tests.make.adapters import factors, write_adapter
from tests.make.checkpoints import write_model

NAME = "model.embed_tokens.weight"
CONFIG = {"model_type": "llama", "vocab_size": 6}


def test_rows_of_several_types(tmp_path: Path) -> None:
    """Each row in its own type, aligned, base first; what torch reads from them are the numbers on disk."""
    types = (torch.bfloat16, torch.float32, torch.float64)
    tensors = [normal(33, 3, seed=seed, dtype=dtype) for seed, dtype in enumerate(types)]
    plan = planned(tmp_path, {"a.weight": tensors[0]}, [{"a.weight": each} for each in tensors[1:]], "task_arithmetic")
    own = chain(plan)
    rows = Worker(plan.inputs).load(own, 10, 77)
    assert rows.has_base
    assert (rows.start, rows.count, rows.n) == (10, 67, 2)
    assert (rows.offsets % 64 == 0).all()
    assert len(rows.raw) >= arena_bytes(own.site, 67) >= 67 * (2 + 4 + 8)
    for read, tensor in zip(widen(rows, "cpu"), tensors, strict=True):
        assert torch.equal(read, tensor.flatten()[10:77].to(read.dtype))


def test_rows_are_read_to_their_ends(tmp_path: Path) -> None:
    """Elements 10 to 19 of rows of 7 lie in the rows 7 to 21: three before, two behind."""
    tensors = [normal(5, 7, seed=seed) for seed in range(2)]
    chosen = [{"della": {"density": 0.5}}, "linear"]
    plan = planned(tmp_path, {"a.weight": tensors[0]}, [{"a.weight": tensors[1]}], chosen)
    rows = Worker(plan.inputs).load(chain(plan), 10, 19)
    assert (rows.start, rows.count, rows.lead, rows.tail, rows.width) == (10, 9, 3, 2, 7)
    assert torch.equal(widen(rows, "cpu")[1], tensors[1].flatten()[10:19])
    assert torch.equal(widen(rows.whole(), "cpu")[1], tensors[1].flatten()[7:21])
    last = Worker(plan.inputs).load(chain(plan), 28, 35)
    assert (last.lead, last.tail, last.whole().count) == (0, 0, 7)


def test_the_arena_is_reused(tmp_path: Path) -> None:
    """A smaller slice takes no new memory."""
    tensors = [{"a.weight": normal(5000, seed=seed)} for seed in range(2)]
    plan = planned(tmp_path, None, tensors, "linear")
    worker, own = Worker(plan.inputs), chain(plan)
    first = worker.load(own, 0, 5000).raw
    second = worker.load(own, 100, 200).raw
    assert np.shares_memory(first, second)
    assert np.shares_memory(worker.out(100), worker.out(50))
    assert len(worker.out(50)) == 50


def test_rows_beyond_a_models_own(tmp_path: Path) -> None:
    """A model with fewer tokens takes the base's rows, from the element where its own end."""
    base, short, long = normal(6, 4), normal(4, 4, seed=1), normal(6, 4, seed=2)
    paths = [str(write_model(tmp_path / n, {NAME: t}, CONFIG)) for n, t in (("base", base), ("a", short), ("b", long))]
    asked = eutectic.merge(paths[1:], base=paths[0], method="task_arithmetic", vocabulary="base")
    plan = eutectic.plan(asked)
    for start, stop in ((0, 24), (3, 20), (17, 24), (0, 5)):
        read = widen(Worker(plan.inputs).load(chain(plan, NAME), start, stop), "cpu")
        filled = torch.cat([short, base[4:]])
        for row, tensor in zip(read, (base, filled, long), strict=True):
            assert torch.equal(row, tensor.flatten()[start:stop])


def test_deltas(tmp_path: Path) -> None:
    """An adapter's row is a difference; where it changes nothing beside another that does, it is zero."""
    query = "model.layers.0.self_attn.q_proj.weight"
    base = {query: normal(4, 4), NAME: normal(6, 4)}
    paths = [str(write_model(tmp_path / n, {k: v + s for k, v in base.items()}, CONFIG)) for s, n in enumerate("xy")]
    lora = write_adapter(tmp_path / "lora", factors(query.removesuffix(".weight"), 4, 4))
    plan = eutectic.plan(eutectic.merge([str(lora), paths[1]], base=paths[0], method="task_arithmetic"))
    rows = {each.part.name: Worker(plan.inputs).load(each, 0, each.part.numel) for each in chains_of(plan)}
    assert rows[NAME].is_delta.tolist() == rows[query].is_delta.tolist() == [True, False]
    assert not widen(rows[NAME], "cpu")[1].any()
    assert widen(rows[query], "cpu")[1].any()


def test_read_rows(tmp_path: Path) -> None:
    """Tensors of several checkpoints side by side, for a comparison."""
    tensors = [normal(40, seed=seed, dtype=dtype) for seed, dtype in enumerate((torch.float16, torch.float64))]
    opened = [eutectic.open(write_model(tmp_path / str(n), {"a": each}, {})) for n, each in enumerate(tensors)]
    rows = read_rows([(each, each.source.header["a"]) for each in opened], 5, 30)
    assert rows.double
    assert rows.n == 1
    for read, tensor in zip(widen(rows, "cpu"), tensors, strict=True):
        assert torch.equal(read, tensor[5:30].double())
