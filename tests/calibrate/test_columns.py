"""Learning column weights: one step by hand, against a network of merged weights, and recipes end to end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import eutectic
from eutectic.calibrate.columns import Columns, Update, learn
from eutectic.errors import CalibrationError, OverBudget, RecipeError
from eutectic.stats.columns import ColumnWeights
from tests.make.transformer import config, family, texts


def carried(width: int, updates: Sequence[Update | None], bias: bool = False) -> tuple[nn.Linear, Columns]:
    """One linear map of a base of zeros, and its columns."""
    layer = nn.Linear(width, len(next(each for each in updates if each is not None).b), bias=bias)
    nn.init.zeros_(layer.weight)
    return layer.requires_grad_(False), Columns({"map": layer}, {"map": updates})


def test_overlaps_by_hand() -> None:
    """Weights (2, -1) and (1, 3): their product is 2 - 3, magnitude 1 in the paper; (2 + 3) / 2 in the code."""
    _, columns = carried(2, [Update(torch.ones(1, 2)), Update(torch.ones(1, 2))])
    with torch.no_grad():
        columns.weights["map"].copy_(torch.tensor([[2.0, -1.0], [1.0, 3.0]]))
    assert float(columns.overlaps("paper").detach()) == 1.0
    assert float(columns.overlaps("code").detach()) == 2.5


def test_a_step_by_hand() -> None:
    """Updates D_1 = (1 0) and D_2 = (0 2), each shown the input (1, 1).

    At weights of 1 the merged output is 1 + 2 = 3. The first model answers 1, which is 2 off: a loss of 4; the second
    answers 2: a loss of 1. The overlap of the paper is |1 + 1| = 2, times 0.5. The sum of the gradients of m_1[0] is
    2 * 2 + 2 * 1 + 0.5 = 6.5, that of m_2[1] twice 6 + 0.5 = 12.5; m_1[1] and m_2[0] meet zeros and get 0.5 each. All
    are positive, so that AdamW's first step is its rate downwards, after 1e-4 of the decay: 1 - 0.1 - 0.1 * 1e-4.
    """
    layer, columns = carried(2, [Update(table := torch.tensor([[1.0, 0.0]])), Update(2 * table.flip(1))])
    shown = torch.ones(1, 2)
    with columns.attached():
        losses = learn(columns, lambda model, step: layer(shown), 2, ColumnWeights(0.5, "paper", 1, 0.1))
    assert losses == [(4.0, 1.0, 1.0)]
    assert torch.allclose(columns.weights["map"], torch.full((2, 2), 1 - 0.1 - 1e-5), atol=1e-6)
    assert float(layer(torch.ones(1, 2))) == 0.0  # nothing is left on the network


def test_factors_are_their_product_and_some_models_leave_maps_alone() -> None:
    """A factored update learns what its dense one does; a model without an update keeps weights of 1."""
    generator = torch.Generator().manual_seed(0)
    b, a = torch.randn(5, 2, generator=generator), torch.randn(2, 7, generator=generator)
    shown = torch.randn(6, 7, generator=generator)
    found = []
    for update in (Update(b, a), Update(b @ a)):
        layer, columns = carried(7, [update, None])
        with columns.attached():
            # Deaf to the model's number: the second answers nothing by itself, and the merge must come down to that.
            learn(columns, lambda model, step, layer=layer: layer(shown), 2, ColumnWeights(0.0, "paper", 20, 0.05))
        found.append(columns.weights["map"].detach())
    assert torch.allclose(*found, atol=1e-4)
    assert float(found[0][0].mean()) < 1.0
    assert torch.allclose(found[0][1], torch.ones(7) * (1 - 0.05 * 1e-4) ** 20)  # the decay alone


def test_learning_ends_where_nothing_overlaps_and_refuses_what_is_not_finite() -> None:
    """Without data that pulls, weights shrink until the overlap is 0; an infinite loss is an error."""
    layer, columns = carried(1, [Update(torch.ones(1, 1)), Update(torch.ones(1, 1))])
    with torch.no_grad():
        columns.weights["map"].copy_(torch.tensor([[1.0], [0.0]]))
    with columns.attached():
        losses = learn(columns, lambda model, step: layer(torch.zeros(1, 1)), 2, ColumnWeights(1.0, "paper", 9, 0.0))
        assert len(losses) == 1
        broken = torch.full((1, 1), torch.inf)
        with pytest.raises(CalibrationError, match="step 0"):
            learn(columns, lambda model, step: layer(broken), 2, ColumnWeights(1.0, "paper", 9, 0.0))


def adapters(folder: Path, module: str, names: Sequence[str], size: tuple[int, int]) -> list[Path]:
    """Two adapters of rank 2 on the same modules."""
    made = []
    for k in range(2):
        generator = torch.Generator().manual_seed(k)
        path = folder / f"adapter{k}"
        path.mkdir()
        tensors = {}
        for name in names:
            stem = f"base_model.model.{module}.{name}"
            tensors[f"{stem}.lora_A.weight"] = torch.randn(2, size[1], generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.randn(size[0], 2, generator=generator) / 4
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
        made.append(path)
    return made


def recipe(folder: Path, models: Sequence[Path], method: Any, **more: Any) -> eutectic.Recipe:
    """A recipe over two models with their own texts."""
    entries = [{"model": str(path), "name": f"e{k}"} for k, path in enumerate(models)]
    data = {f"e{k}": str(folder / f"data{k}.jsonl") for k in range(2)}
    said = {"data": data, "batch": 4}
    return eutectic.merge(entries, base=str(folder / "base"), method=method, calibration=said, **more)


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two experts, two adapters, and texts."""
    folder = tmp_path_factory.mktemp("berts")
    family(folder, "BertModel", config("bert"))
    for k in range(2):
        texts(folder / f"data{k}.jsonl", 12, seed=k, labels=3)
    adapters(folder, "encoder.layer.0.attention.self", ("query", "value"), (16, 16))
    return folder


def test_adapters_end_to_end(berts: Path, tmp_path: Path) -> None:
    """What is merged is what the store says; a second run learns nothing; other settings and other data learn anew."""
    store = tmp_path / "store"
    models = [berts / "adapter0", berts / "adapter1"]
    made = recipe(berts, models, {"ziplora": {"steps": 5, "rate": 0.05}})
    planned = eutectic.plan(made, store=store)
    eutectic.run(planned, out=tmp_path / "out")
    got, base = (load_file(path / "model.safetensors") for path in (tmp_path / "out", berts / "base"))
    again = eutectic.plan(made, store=store)
    assert again.calibration is not None
    assert all(again.calibration.finished)
    from eutectic.stats.store import Store

    held = [Store(store).open(digest) for digest in again.calibration.digests]
    for name, tensor in got.items():
        if not name.endswith(("self.query.weight", "self.value.weight")) or ".0." not in name:
            assert torch.equal(tensor, base[name])
            continue
        expected = base[name].double()
        for results, path in zip(held, models, strict=True):
            factors = load_file(path / "adapter_model.safetensors")
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            columns = results.measured(name).load()
            assert columns.shape == (16,)
            assert 0.01 < float((columns - 1).abs().max()) < 0.3
            update = 2 * factors[f"{stem}.lora_B.weight"].double() @ factors[f"{stem}.lora_A.weight"].double()
            expected = expected + update * columns.double()
        assert torch.allclose(tensor.double(), expected, atol=1e-6)
    for other in ({"steps": 6, "rate": 0.05}, {"steps": 5, "rate": 0.04}):
        fresh = eutectic.plan(recipe(berts, models, {"ziplora": other}), store=store).calibration
        assert fresh is not None
        assert not any(fresh.finished)
    turned = eutectic.plan(recipe(berts, models[::-1], {"ziplora": {"steps": 5, "rate": 0.05}}), store=store)
    assert turned.calibration is not None
    assert not any(turned.calibration.finished)


def test_it_comes_closer_to_both_models(berts: Path, tmp_path: Path) -> None:
    """The merged model's states on each model's texts are nearer to that model's than the plain sum's are."""
    from transformers import AutoModel, AutoTokenizer

    models = [berts / "adapter0", berts / "adapter1"]
    outs = {}
    for name, method in (("sum", "task_arithmetic"), ("zip", {"ziplora": {"steps": 60, "rate": 0.05}})):
        eutectic.run(eutectic.plan(recipe(berts, models, method), store=tmp_path / "store"), out=tmp_path / name)
        outs[name] = AutoModel.from_pretrained(tmp_path / name).eval()
    turn = AutoTokenizer.from_pretrained(berts / "base")
    for k, path in enumerate(models):
        alone = tmp_path / f"alone{k}"
        eutectic.run(
            eutectic.plan({"base": str(berts / "base"), "models": [str(path)], "method": "task_arithmetic"}), out=alone
        )
        own = AutoModel.from_pretrained(alone).eval()
        rows = [json.loads(line)["text"] for line in (berts / f"data{k}.jsonl").read_text().splitlines()]
        batches = [turn(text, return_tensors="pt", max_length=256, truncation=True) for text in rows]
        gaps = {}
        with torch.no_grad():
            for name, merged in outs.items():
                pairs = [(merged(**batch).last_hidden_state, own(**batch).last_hidden_state) for batch in batches]
                gaps[name] = sum(float((a - b).square().sum()) for a, b in pairs)
        assert gaps["zip"] < 0.9 * gaps["sum"], (k, gaps)


def test_full_models_and_transposed_maps(tmp_path: Path) -> None:
    """GPT-2 keeps its maps as (d_in, d_out): channels are rows, for adapters as for full models, with one result."""
    family(tmp_path, "GPT2LMHeadModel", config("gpt2"))
    for k in range(2):
        texts(tmp_path / f"data{k}.jsonl", 6, seed=k, labels=3)
    made = adapters(tmp_path, "transformer.h.0.attn", ("c_attn",), (48, 16))
    base = load_file(tmp_path / "base" / "model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    assert base[name].shape == (16, 48)
    whole = []
    for k, path in enumerate(made):
        eutectic.run(
            eutectic.plan({"base": str(tmp_path / "base"), "models": [str(path)], "method": "task_arithmetic"}),
            out=tmp_path / f"whole{k}",
        )
        whole.append(tmp_path / f"whole{k}")
    outs = []
    for kind, models in (("adapters", made), ("whole", whole)):
        chosen = recipe(tmp_path, models, {"ziplora": {"steps": 5, "rate": 0.05}})
        eutectic.run(eutectic.plan(chosen, store=tmp_path / "store"), out=tmp_path / kind)
        outs.append(load_file(tmp_path / kind / "model.safetensors"))
    for each in outs[0]:
        assert torch.allclose(outs[0][each], outs[1][each], atol=1e-5), each
    deltas = [load_file(path / "model.safetensors")[name] - base[name] for path in whole]
    rows = (outs[0][name] - base[name] - sum(deltas)).norm(dim=1)  # each input channel by itself
    assert float(rows.max()) > 1e-3


def test_what_is_refused(berts: Path, tmp_path: Path) -> None:
    """Three models, no data, and a budget that the network does not fit in, before any work."""
    models = [berts / "adapter0", berts / "adapter1"]
    with pytest.raises(RecipeError, match="exactly 2"):
        eutectic.plan(recipe(berts, [*models, berts / "expert0"], "ziplora"), store=tmp_path)
    bare = {"base": str(berts / "base"), "models": [str(each) for each in models], "method": "ziplora"}
    with pytest.raises(RecipeError, match="calibration"):
        eutectic.plan(bare, store=tmp_path)
    for output in ({"form": "adapter", "rank": 4}, {"form": "delta"}):
        with pytest.raises(RecipeError, match="looks at data, so it makes a model"):
            eutectic.plan(recipe(berts, models, "ziplora", output=output), store=tmp_path)
    staged = {"base": str(berts / "base"), "models": [{"recipe": bare, "name": "zipped"}], "method": "task_arithmetic"}
    with pytest.raises(RecipeError, match="which a stage has none of"):
        eutectic.plan(staged, store=tmp_path)
    with pytest.raises(OverBudget):
        eutectic.plan(recipe(berts, models, "ziplora"), store=tmp_path, memory="40MiB")
