"""Calibration of recipes end to end: merges, resuming, sweeps, and what is refused before any pass."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.api import runs
from eutectic.engine.events import Calibrating, Event
from eutectic.errors import CalibrationError, OverBudget, RecipeError
from tests.make.transformer import config, family, save, texts, tokenizer


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts, classifiers of three classes, and texts with labels."""
    folder = tmp_path_factory.mktemp("berts")
    family(folder, "BertForSequenceClassification", config("bert", num_labels=3))
    for k in range(2):
        texts(folder / f"data{k}.jsonl", 12, seed=k, labels=3)
    return folder


def recipe(folder: Path, method: Any = "regmean", rules: Any = None, **calibration: Any) -> eutectic.Recipe:
    """A recipe over two experts, heads kept outside."""
    said = {"data": {f"e{k}": str(folder / f"data{k}.jsonl") for k in range(2)}, "batch": 5, **calibration}
    models = [{"model": str(folder / f"expert{k}"), "name": f"e{k}"} for k in range(2)]
    kept = [{"role": "head", "keep": "base"}] if rules is None else rules
    return eutectic.merge(models, base=str(folder / "base"), method=method, rules=kept, calibration=said)


def run(made: eutectic.Recipe, out: Path, store: Path, seen: list[Event] | None = None) -> dict[str, torch.Tensor]:
    """Merges and reads the output."""
    eutectic.run(eutectic.plan(made, store=store), out=out, watch=[(seen or []).append])
    return load_file(out / "model.safetensors")


def grams(store: Path) -> dict[str, Mapping[str, torch.Tensor]]:
    """Everything that a store holds, by digest."""
    from eutectic.stats.store import Store

    found = {}
    for entry in Store(store).entries():
        results = Store(store).open(entry.digest)
        found[entry.digest] = {name: results.measured(name).load() for name in results.names()}
    return found


def test_regmean_end_to_end(berts: Path, tmp_path: Path) -> None:
    """The merge is the least squares of what the store holds; norms, biases and embeddings are averaged; heads kept."""
    got = run(recipe(berts, {"regmean": {"alpha": 0.8}}), tmp_path / "out", tmp_path / "store")
    experts = [load_file(berts / f"expert{k}" / "model.safetensors") for k in range(2)]
    base = load_file(berts / "base" / "model.safetensors")
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    stores = sorted(grams(tmp_path / "store").values(), key=lambda held: float(held[name].sum()))
    assert len(stores) == 2
    found = []
    for order in ((0, 1), (1, 0)):
        total, right = torch.zeros(16, 16).double(), torch.zeros(16, 24).double()
        for held, expert in zip((stores[at] for at in order), experts, strict=True):
            gram = held[name].double()
            gram = 0.8 * gram + 0.2 * gram.diagonal().diag()
            total, right = total + gram, right + gram @ expert[name].double().T
        found.append(torch.linalg.solve(total, right).T)
    # Both models saw 12 texts of the same lengths, so rows cancel; which folder is whose is not written in the store.
    assert any(torch.allclose(got[name].double(), each, atol=1e-5) for each in found)
    for plain in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.LayerNorm.weight"):
        assert torch.allclose(got[plain], (experts[0][plain] + experts[1][plain]) / 2, atol=1e-6)
    assert torch.equal(got["classifier.weight"], base["classifier.weight"])


def test_a_sweep_reads_what_is_stored(berts: Path, tmp_path: Path) -> None:
    """Another alpha passes no model; its plan says so; other samples, or other padding, pass again."""
    store = tmp_path / "store"
    seen: list[Event] = []
    eutectic.run(eutectic.plan(recipe(berts), store=store), out=tmp_path / "one", watch=[seen.append])
    assert any(isinstance(event, Calibrating) for event in seen)
    again = eutectic.plan(recipe(berts, {"regmean": {"alpha": 0.5}}), store=store)
    assert again.calibration is not None
    assert all(again.calibration.finished)
    assert "stored already" in again.explain()
    seen.clear()
    eutectic.run(again, out=tmp_path / "two", watch=[seen.append])
    assert not any(isinstance(event, Calibrating) for event in seen)
    for changed in ({"samples": 3}, {"padding": "include"}, {"max_length": 4}, {"seed": 1, "samples": 4}):
        other = eutectic.plan(recipe(berts, **changed), store=store).calibration
        assert other is not None
        assert not any(other.finished), changed


def test_a_stopped_calibration_goes_on(berts: Path, tmp_path: Path) -> None:
    """Stopped after any number of parts, the same command measures the rest only, and results are the same bytes."""
    whole = tmp_path / "whole"
    runs.calibrate(eutectic.plan(recipe(berts), store=whole))
    parts = 2 * 3  # two models of two blocks and the rest

    class StopError(Exception):
        pass

    for stop in range(1, parts):
        store = tmp_path / f"store{stop}"
        left = [stop]

        def watch(event: Event, left: list[int] = left) -> None:
            left[0] -= isinstance(event, Calibrating)
            if left[0] == 0:
                raise StopError

        with pytest.raises(StopError):
            runs.calibrate(eutectic.plan(recipe(berts), store=store), watch=[watch])
        kept = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
        assert len(kept) == stop
        runs.calibrate(eutectic.plan(recipe(berts), store=store))
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        again, before = grams(store), grams(whole)
        assert again.keys() == before.keys()
        for digest, held in before.items():
            assert all(torch.equal(held[name], again[digest][name]) for name in held)


def test_one_block_at_a_time_is_the_whole(berts: Path, tmp_path: Path) -> None:
    """Both runners store the same bytes, under the same digests."""
    for runner in ("blocks", "whole"):
        runs.calibrate(eutectic.plan(recipe(berts, runner=runner), store=tmp_path / runner))
    one, other = grams(tmp_path / "blocks"), grams(tmp_path / "whole")
    assert one.keys() == other.keys()
    for digest, held in one.items():
        assert all(torch.equal(held[name], other[digest][name]) for name in held)


def test_adapters_and_shards_are_models(berts: Path, tmp_path: Path) -> None:
    """A base + adapter is calibrated as the model it makes."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    target = "bert.encoder.layer.0.attention.self.query"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 16, generator=generator), torch.randn(16, 2, generator=generator)
    names = f"base_model.model.{target}"
    save_file({f"{names}.lora_A.weight": a, f"{names}.lora_B.weight": b}, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    whole = tmp_path / "whole"
    shutil.copytree(berts / "base", whole)
    tensors = load_file(whole / "model.safetensors")
    tensors[f"{target}.weight"] += b @ a
    save_file(tensors, whole / "model.safetensors")
    made = {}
    for kind, second in (("adapter", adapter), ("whole", whole)):
        models = [{"model": str(adapter), "name": "a"}, {"model": str(second), "name": "b"}]
        said = {"data": str(berts / "data0.jsonl")}
        one = eutectic.merge(models, base=str(berts / "base"), method="regmean", calibration=said)
        made[kind] = run(one, tmp_path / f"out-{kind}", tmp_path / "store")
    # The adapter merged with itself, or with itself as a whole model, is the model that it makes.
    for got in made.values():
        assert torch.allclose(got[f"{target}.weight"], tensors[f"{target}.weight"], atol=1e-5)


def test_fisher_end_to_end(berts: Path, tmp_path: Path) -> None:
    """The model's own head predicts; the diagonal agrees with one taken from the model as transformers loads it."""
    import transformers

    got = run(recipe(berts, {"fisher": {"kind": "empirical"}}, label="label"), tmp_path / "out", tmp_path / "store")
    tensor = "bert.encoder.layer.0.attention.self.query.bias"
    diagonals = []
    for k in range(2):
        loaded = transformers.BertForSequenceClassification.from_pretrained(berts / f"expert{k}").eval()
        tokens = transformers.AutoTokenizer.from_pretrained(berts / "base")
        weight = dict(loaded.named_parameters())[tensor]
        total = torch.zeros(16)
        for line in (berts / f"data{k}.jsonl").read_text().splitlines():
            row = json.loads(line)
            logits = loaded(**tokens(row["text"], return_tensors="pt")).logits[0]
            total += torch.autograd.grad(logits.log_softmax(-1)[row["label"]], weight)[0].square()
        diagonals.append(total / 12)
    held = [each[tensor] for each in grams(tmp_path / "store").values()]
    assert all(any(torch.allclose(each, found, rtol=1e-3, atol=1e-9) for found in held) for each in diagonals)
    experts = [load_file(berts / f"expert{k}" / "model.safetensors")[tensor] for k in range(2)]
    low, high = torch.minimum(*experts), torch.maximum(*experts)
    assert bool(((got[tensor] >= low - 1e-6) & (got[tensor] <= high + 1e-6)).all())


def test_gradients_at_the_base_under_each_tasks_own_head(tmp_path: Path) -> None:
    """Experts of three and five classes: their gradients are the base's own under their heads, sample by sample.

    What is masked is what the gradients of one say of the movement of the other, over the whole model.
    """
    import transformers

    folders = []
    for name, labels, seed in (("base", 3, 1), ("expert0", 3, 2), ("expert1", 5, 3)):
        settings = config("bert", num_labels=labels)
        folders.append(save(tmp_path / name, settings, "BertForSequenceClassification", seed))
        texts(tmp_path / f"data{name[-1]}.jsonl", 6, seed=seed, labels=labels)
    chain = [{"tatr": {"ratio": 0.2, "sensitivity": "gradients"}}, {"task_arithmetic": {"scale": 0.5}}]
    made = recipe(tmp_path, chain, label="label", rules=[{"match": "classifier.*", "keep": "base"}])
    got = run(made, tmp_path / "out", tmp_path / "store")
    base, *experts = (load_file(folder / "model.safetensors") for folder in folders)
    merged = [name for name in base if not name.startswith("classifier.") and "pooler" not in name]
    gradients = []
    for k, expert in enumerate(experts):
        loaded = transformers.BertForSequenceClassification.from_pretrained(folders[1 + k]).eval()
        head = {name: tensor for name, tensor in expert.items() if name.startswith("classifier.")}
        loaded.load_state_dict({**base, **head}, strict=False)
        tokens = transformers.AutoTokenizer.from_pretrained(folders[0])
        weights = dict(loaded.named_parameters())
        total = {name: torch.zeros_like(base[name]) for name in base if name not in head}
        for line in (tmp_path / f"data{k}.jsonl").read_text().splitlines():
            row = json.loads(line)
            logits = loaded(**tokens(row["text"], return_tensors="pt")).logits
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor([row["label"]]))
            for name, found in zip(total, torch.autograd.grad(loss, [weights[n] for n in total]), strict=True):
                total[name] += found.abs()
        gradients.append({name: each / 6 for name, each in total.items()})
    moves = [{name: expert[name] - base[name] for name in gradients[0]} for expert in experts]
    omega = {
        name: gradients[0][name] * moves[1][name].abs() + gradients[1][name] * moves[0][name].abs()
        for name in gradients[0]
    }
    every = torch.cat([omega[name].reshape(-1) for name in omega]).sort().values
    cut = float(every[int(len(every) * 0.8)])
    for name in merged:
        near = (omega[name] / cut - 1).abs() < 1e-3  # which side of the cut is decided by rounding
        kept = (omega[name] < cut).float()
        expected = base[name] + 0.5 * kept * (moves[0][name] + moves[1][name])
        assert torch.allclose(got[name].where(~near, expected), expected, atol=1e-6), name
        assert float(near.float().mean()) < 0.05


def test_a_head_outside_of_the_model_predicts(berts: Path, tmp_path: Path) -> None:
    """Logits of a frozen head; one of another width, or without weight, is refused before any pass."""
    save_file({"weight": torch.randn(3, 16)}, tmp_path / "head.safetensors")
    head = {"weights": str(tmp_path / "head.safetensors"), "normalize": True, "scale": 20}
    got = run(recipe(berts, "fisher", head=head), tmp_path / "out", tmp_path / "store")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())
    save_file({"weight": torch.randn(3, 12)}, tmp_path / "head.safetensors")
    with pytest.raises(CalibrationError, match=r"head for features of width 16, found one of 12"):
        eutectic.plan(recipe(berts, "fisher", head=head), store=tmp_path / "store")
    save_file({"other": torch.randn(3, 16)}, tmp_path / "head.safetensors")
    with pytest.raises(CalibrationError, match=r"expected a head's weight"):
        eutectic.plan(recipe(berts, "fisher", head=head), store=tmp_path / "store")


def test_regmean_takes_weights_from_norms(berts: Path, tmp_path: Path) -> None:
    """NAN's weights per tensor are those that a recipe with the numbers gives, and not equal ones."""
    got = run(
        recipe(berts, {"regmean": {"weight": {"nan": {"of": "delta", "per": "tensor"}}}}), tmp_path / "a", tmp_path
    )
    base, *experts = (load_file(berts / n / "model.safetensors") for n in ("base", "expert0", "expert1"))
    name = "bert.encoder.layer.1.output.dense.weight"
    sizes = [1 / float((expert[name] - base[name]).norm()) for expert in experts]
    weights = [each / sum(sizes) for each in sizes]
    rules = [{"role": "head", "keep": "base"}] + [
        {"match": name, "models": [f"e{k}"], "set": {"weight": weight}} for k, weight in enumerate(weights)
    ]
    same = run(recipe(berts, "regmean", rules), tmp_path / "b", tmp_path)
    assert torch.allclose(got[name], same[name], atol=1e-5)
    uneven = run(recipe(berts, {"regmean": {"weight": 1.0}}), tmp_path / "c", tmp_path)
    assert not torch.equal(got[name], uneven[name])


CHAINS: dict[str, Any] = {
    "tatr, ties": [{"tatr": {"ratio": 0.05, "sensitivity": "gradients"}}, {"ties": {"density": 0.5}}],
    "trim, tatr, ties": [{"trim": {"density": 0.5}}, {"tatr": {"sensitivity": "ntk"}}, {"ties": {"density": 1.0}}],
    "tatr, lot": [{"tatr": {"ratio": 0.05, "sensitivity": "gradients"}}, "lot"],
    "tatr, cat": [{"tatr": {"sensitivity": "gradients"}}, "cat", "task_arithmetic"],
    "cat, ties": ["cat", {"ties": {"density": 0.5}}],
    "dare, tatr, regmean": [{"dare": {"density": 0.5}}, {"tatr": {"sensitivity": "gradients"}}, "regmean"],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_chains_on_data(chain: Any, berts: Path, tmp_path: Path) -> None:
    """Statistics of several kinds, and cuts over what steps before left: the same bytes on threads and in slices."""
    store = tmp_path / "store"
    made = recipe(berts, chain, label="label", samples=3)
    first = run(made, tmp_path / "out", store)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in first.values())
    eutectic.run(eutectic.plan(made, store=store, threads=1, memory="200MiB"), out=tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not eutectic.verify(tmp_path / "out", sample=None, store=store).differing


@pytest.mark.parametrize(
    "method", ["lot", ["cat", "task_arithmetic"], CHAINS["tatr, ties"]], ids=["lot", "cat", "tatr"]
)
def test_one_sample(method: Any, berts: Path, tmp_path: Path) -> None:
    """Is enough to merge: nothing is infinite."""
    got = run(recipe(berts, method, label="label", samples=1), tmp_path / "out", tmp_path / "store")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())


def test_one_sample_is_enough(berts: Path, tmp_path: Path) -> None:
    """Where one sample does not determine a map, it stays near the mean; nothing is infinite."""
    got = run(recipe(berts, {"regmean": {"alpha": 1.0}}, samples=1), tmp_path / "out", tmp_path / "store")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in got.values())


# ---- refused before any pass ----------------------------------------------------------------------------------------


def refused(made: eutectic.Recipe, store: Path, match: str) -> None:
    """Holds that calibration is refused, by plan or before its first part, with a message."""
    seen: list[Event] = []
    with pytest.raises(CalibrationError, match=match):
        runs.calibrate(eutectic.plan(made, store=store), watch=[seen.append])
    assert not seen
    assert not list(store.rglob("*.safetensors"))


def test_data_that_is_not_there(berts: Path, tmp_path: Path) -> None:
    """No section, no file, an empty file, a column of another name."""
    plain = recipe(berts).model_copy(update={"calibration": None})
    with pytest.raises(RecipeError, match=r"regmean|inputs.*needs data"):
        eutectic.plan(plain, store=tmp_path)
    refused(recipe(berts, data=str(tmp_path / "none.jsonl")), tmp_path / "s", "expected a file or folder of samples")
    (tmp_path / "empty.jsonl").write_text("\n")
    refused(recipe(berts, data=str(tmp_path / "empty.jsonl")), tmp_path / "s", "expected samples, found none")
    refused(recipe(berts, text="sentence"), tmp_path / "s", "row 1: expected a column 'sentence'")


def test_labels_that_are_missing(berts: Path, tmp_path: Path) -> None:
    """Needed and not named, named and not there, out of the head's range."""
    empirical = {"fisher": {"kind": "empirical"}}
    refused(recipe(berts, empirical), tmp_path / "s", r"expected samples with labels.*calibration\.label")
    refused(recipe(berts, empirical, label="class"), tmp_path / "s", "expected a label under 'class'")
    texts(tmp_path / "many.jsonl", 12, labels=7)
    many = recipe(berts, empirical, label="label", data=str(tmp_path / "many.jsonl"))
    refused(many, tmp_path / "s", "labels from 0 to 2, as the head has 3 classes; found [46]")


def test_gradients_need_labels_and_a_head(berts: Path, tmp_path: Path) -> None:
    """TATR by gradients: without data, without labels, and of models that predict nothing."""
    gradients = [{"tatr": {"sensitivity": "gradients"}}, "task_arithmetic"]
    plain = recipe(berts, gradients).model_copy(update={"calibration": None})
    with pytest.raises(RecipeError, match=r"looks at gradients, so it needs data; add calibration"):
        eutectic.plan(plain, store=tmp_path)
    refused(recipe(berts, gradients), tmp_path / "s", r"expected samples with labels.*calibration\.label")
    refused(recipe(berts, gradients, label="class"), tmp_path / "s", "expected a label under 'class'")
    family(tmp_path, "BertModel", config("bert"))
    for k in range(2):
        shutil.copy(berts / f"data{k}.jsonl", tmp_path)
    headless = recipe(tmp_path, gradients, label="label", rules=[])
    refused(headless, tmp_path / "s", r"expected a model that predicts, found BertModel.*calibration\.head")


@pytest.mark.parametrize("method", ["lot", ["cat", "task_arithmetic"]], ids=["lot", "cat"])
def test_data_for_what_layers_hold(method: Any, berts: Path, tmp_path: Path) -> None:
    """No section, and an empty file, are refused before any pass."""
    with pytest.raises(RecipeError, match=r"looks at inputs, so it needs data"):
        eutectic.plan(recipe(berts, method).model_copy(update={"calibration": None}), store=tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n")
    empty = recipe(berts, method, data=str(tmp_path / "empty.jsonl"))
    refused(empty, tmp_path / "s", "expected samples, found none")


def test_a_tokenizer_of_another_model(berts: Path, tmp_path: Path) -> None:
    """Tokens beyond the embedding are found before anything is run."""
    family(tmp_path, "BertForSequenceClassification", config("bert", num_labels=3))
    for folder in ("base", "expert0", "expert1"):
        tokenizer(tmp_path / folder, [f"x{at}" for at in range(100)] + [f"w{at}" for at in range(60)])
    for k in range(2):
        shutil.copy(berts / f"data{k}.jsonl", tmp_path)
    refused(recipe(tmp_path), tmp_path / "s", "its tokenizer belongs to another model")


def test_a_model_that_config_does_not_describe(berts: Path, tmp_path: Path) -> None:
    """Tensors that do not fit the module are named."""
    family(tmp_path, "BertForSequenceClassification", config("bert", num_labels=3))
    for folder in ("base", "expert0", "expert1"):
        path = tmp_path / folder / "config.json"
        path.write_text(path.read_text().replace('"intermediate_size": 24', '"intermediate_size": 32'))
    for k in range(2):
        shutil.copy(berts / f"data{k}.jsonl", tmp_path)
    refused(recipe(tmp_path), tmp_path / "s", r"do not fit BertModel.*expected \[32, 16\], found \[24, 16\]")


def test_weights_that_are_not_finite(berts: Path, tmp_path: Path) -> None:
    """NaN activations name the model and the tensor behind them."""
    family(tmp_path, "BertForSequenceClassification", config("bert", num_labels=3))
    path = tmp_path / "expert1" / "model.safetensors"
    tensors = load_file(path)
    tensors["bert.encoder.layer.0.attention.self.query.weight"][0, 0] = torch.nan
    save_file(tensors, path)
    for k in range(2):
        shutil.copy(berts / f"data{k}.jsonl", tmp_path)
    with pytest.raises(CalibrationError, match=r"expert1: what reaches encoder\.layer\.\d.*weight is NaN"):
        runs.calibrate(eutectic.plan(recipe(tmp_path), store=tmp_path / "s"))


def test_too_small_a_budget(berts: Path, tmp_path: Path) -> None:
    """Calibration is priced; what does not fit is refused with the least that does."""
    with pytest.raises(OverBudget, match=r"calibrating it takes .* --memory \d+MiB"):
        eutectic.plan(recipe(berts), memory="40MiB", store=tmp_path)


def test_data_that_changes_meanwhile(berts: Path, tmp_path: Path) -> None:
    """Between plan and run nothing may change."""
    for k in range(2):
        shutil.copy(berts / f"data{k}.jsonl", tmp_path / f"data{k}.jsonl")
    data = {f"e{k}": str(tmp_path / f"data{k}.jsonl") for k in range(2)}
    planned = eutectic.plan(recipe(berts, data=data), store=tmp_path / "s")
    texts(tmp_path / "data1.jsonl", 12, seed=9, labels=3)
    with pytest.raises(CalibrationError, match="changed since the plan was made"):
        runs.calibrate(planned)


# ---- other families -------------------------------------------------------------------------------------------------

FAMILIES = {
    "llama": ("LlamaForCausalLM", ["self_attn.q_proj", "mlp.down_proj"]),
    "gpt2": ("GPT2LMHeadModel", ["attn.c_attn", "mlp.c_proj"]),
    "t5": ("T5ForConditionalGeneration", ["SelfAttention.q", "EncDecAttention.k"]),
    "vit": ("ViTForImageClassification", ["attention.query", "output.dense"]),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_families_merge(kind: str, tmp_path: Path) -> None:
    """Decoders, transposed maps, encoder-decoders, vision: maps are solved, and a copy merged with itself is itself."""
    architecture, maps = FAMILIES[kind]
    words = kind != "vit"
    base, experts = family(tmp_path, architecture, config(kind), words=words)
    data = texts(tmp_path / "data.jsonl") if words else tmp_path / "pixels.safetensors"
    if not words:
        save_file({"pixel_values": torch.randn(6, 3, 8, 8)}, data)
    said = {"data": str(data), "batch": 4}

    def merge(models: list[str], out: str, method: Any) -> dict[str, torch.Tensor]:
        entries = [{"model": model, "name": f"m{at}"} for at, model in enumerate(models)]
        made = eutectic.merge(entries, base=str(base), method=method, calibration=said)
        return run(made, tmp_path / out, tmp_path / "store")

    same = merge([str(experts[0])] * 2, "same", "regmean")
    own = load_file(experts[0] / "model.safetensors")
    assert all(torch.allclose(same[name], own[name], atol=1e-5) for name in same)
    got = merge([str(each) for each in experts], "two", "regmean")
    other = load_file(experts[1] / "model.safetensors")
    for part in maps:
        names = [name for name in got if f"{part}.weight" in name]
        assert names
        # Of a map whose inputs reached it the merge is not the plain mean.
        assert not any(torch.allclose(got[name], (own[name] + other[name]) / 2, atol=1e-4) for name in names)


def merge_two(folder: Path, method: Any, kind: str) -> list[dict[str, torch.Tensor]]:
    """Merges two experts of a family on data of their own, all tensors merged; returns base, both, and the merge."""
    architecture = FAMILIES[kind][0]
    words = kind != "vit"
    base, experts = family(folder, architecture, config(kind), words=words)
    data = {}
    for k in range(2):
        data[f"e{k}"] = str(folder / (f"data{k}.jsonl" if words else f"pixels{k}.safetensors"))
        if words:
            texts(Path(data[f"e{k}"]), 12, seed=k)
        else:
            pixels = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(k))
            save_file({"pixel_values": pixels}, data[f"e{k}"])
    entries = [{"model": str(model), "name": f"e{k}"} for k, model in enumerate(experts)]
    made = eutectic.merge(entries, base=str(base), method=method, calibration={"data": data, "batch": 4})
    got = run(made, folder / "out", folder / "store")
    return [*(load_file(each / "model.safetensors") for each in (base, *experts)), got]


#: Of each family a norm's scale, a map, something added, and what is no part of a layer.
PARTS = {
    "llama": ("layers.1.input_layernorm.weight", "layers.1.mlp.down_proj.weight", None, "embed_tokens.weight"),
    "gpt2": ("h.1.ln_2.weight", "h.1.mlp.c_proj.weight", "h.1.ln_2.bias", "wte.weight"),
    "t5": ("block.1.layer.1.layer_norm.weight", "block.1.layer.1.DenseReluDense.wo.weight", None, "shared.weight"),
    "vit": ("layer.1.layernorm_after.weight", "layer.1.output.dense.weight", "layer.1.output.dense.bias", "cls_token"),
}


def named(tensors: Mapping[str, torch.Tensor], end: str | None) -> list[str]:
    """The tensors whose name ends so; some, if one is asked for."""
    found = [name for name in tensors if end is not None and name.endswith(end)]
    assert found or end is None, sorted(tensors)
    return found


@pytest.mark.parametrize("kind", PARTS)
def test_lot_solves_what_layers_hold(kind: str, tmp_path: Path) -> None:
    """Maps and scales are between the tasks and no mean of them; what is added, and embeddings, are the mean."""
    base, one, other, got = merge_two(tmp_path, "lot", kind)
    scale, map_, shift, outside = PARTS[kind]
    for name in named(got, scale):
        low, high = torch.minimum(one[name], other[name]), torch.maximum(one[name], other[name])
        assert bool(((got[name] >= low - 1e-6) & (got[name] <= high + 1e-6)).all())
        assert not torch.allclose(got[name], (one[name] + other[name]) / 2, atol=1e-4)
    for name in named(got, map_):
        assert not torch.allclose(got[name], (one[name] + other[name]) / 2, atol=1e-4)
        assert not torch.allclose(got[name], base[name], atol=1e-4)
    for name in [*named(got, shift), *named(got, outside)]:
        assert torch.allclose(got[name], (one[name] + other[name]) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", PARTS)
def test_cat_trims_what_layers_hold(kind: str, tmp_path: Path) -> None:
    """Two directions of a map's outputs, two channels of scales and shifts, of each task; embeddings keep all."""
    chain = [{"cat": {"directions": 2}}, {"task_arithmetic": {"scale": 1.0}}]
    base, one, other, got = merge_two(tmp_path, chain, kind)
    scale, map_, shift, outside = PARTS[kind]
    for name in [*named(got, scale), *named(got, shift)]:
        moves = [one[name] - base[name], other[name] - base[name]]
        kept = [(got[name] - base[name] - sum(moves) + move).abs() > 1e-6 for move in moves]
        assert [int((~each).sum()) for each in kept] == [2, 2] or bool((got[name] == base[name]).any())
    for name in named(got, map_):
        lost = one[name] + other[name] - base[name] - got[name]
        assert int((torch.linalg.svdvals(lost) > 1e-4).sum()) == 4
    for name in named(got, outside):
        assert torch.allclose(got[name], one[name] + other[name] - base[name], atol=1e-6)


def test_cat_trims_query_key_and_value_apart(tmp_path: Path) -> None:
    """GPT-2 keeps them in one tensor, (d_in, 3 d_out): of each third two directions of each task are taken out."""
    base, one, other, got = merge_two(tmp_path, ["cat", {"task_arithmetic": {"scale": 1.0}}], "gpt2")
    for name in named(got, "attn.c_attn.weight"):
        lost = one[name] + other[name] - base[name] - got[name]
        assert [int((torch.linalg.svdvals(part) > 1e-4).sum()) for part in lost.chunk(3, 1)] == [4, 4, 4]


def test_lot_weighs_scales_by_what_norms_make(tmp_path: Path) -> None:
    """Of an RMS norm: squares of its inputs over their mean square, as hooks on transformers' own model say."""
    import transformers

    base, one, other, got = merge_two(tmp_path, {"lot": {"scale": 1.2}}, "llama")
    name = "model.layers.1.input_layernorm.weight"
    squares = []
    for k in range(2):
        loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path / f"expert{k}").eval()
        tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / f"expert{k}")
        found = torch.zeros(16)

        def hook(_: Any, given: tuple[torch.Tensor, ...], found: torch.Tensor = found) -> None:
            plain = given[0] * torch.rsqrt(given[0].square().mean(-1, keepdim=True) + 1e-6)
            found += plain.square().sum((0, 1))

        loaded.model.layers[1].input_layernorm.register_forward_pre_hook(hook)
        with torch.no_grad():
            for line in (tmp_path / f"data{k}.jsonl").read_text().splitlines():
                loaded(**tokens(json.loads(line)["text"], return_tensors="pt"))
        squares.append(found)
    moved = squares[0] * (one[name] - base[name]) + squares[1] * (other[name] - base[name])
    expected = base[name] + 1.2 * moved / (squares[0] + squares[1])
    assert torch.allclose(got[name], expected, atol=1e-5)


def test_behind_the_merged_blocks(tmp_path: Path) -> None:
    """RegMean++ of a decoder: what the first block is given is the same, further on it is not; copies are kept."""
    base, experts = family(tmp_path, "LlamaForCausalLM", config("llama"))
    texts(tmp_path / "data.jsonl")

    def merge(models: list[Path], out: str, prefix: str) -> dict[str, torch.Tensor]:
        entries = [{"model": str(model), "name": f"m{at}"} for at, model in enumerate(models)]
        said = {"data": str(tmp_path / "data.jsonl")}
        method = {"regmean": {"prefix": prefix, "alpha": 0.9}}
        rules = [{"match": "*embed_tokens*", "keep": "base"}]
        made = eutectic.merge(entries, base=str(base), method=method, rules=rules, calibration=said)
        return run(made, tmp_path / out, tmp_path / "store")

    own, behind = (merge(experts, prefix, prefix) for prefix in ("own", "merged"))
    query = "model.layers.{}.self_attn.q_proj.weight"
    assert not torch.allclose(own[query.format(2)], behind[query.format(2)], atol=1e-4)
    same = merge([experts[0]] * 2, "same", "merged")
    one = load_file(experts[0] / "model.safetensors")
    assert torch.allclose(same[query.format(2)], one[query.format(2)], atol=1e-5)


def test_saved_models_are_used(tmp_path: Path) -> None:
    """A config without architectures runs as its bare model."""
    folder = save(tmp_path / "m", config("bert"), "BertModel", 1)
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("architectures")
    (folder / "config.json").write_text(json.dumps(settings))
    texts(tmp_path / "data.jsonl")
    entries = [{"model": str(folder), "name": name} for name in ("a", "b")]
    made = eutectic.merge(entries, method="regmean", calibration={"data": str(tmp_path / "data.jsonl")})
    got = run(made, tmp_path / "out", tmp_path / "store")
    own = load_file(folder / "model.safetensors")
    assert all(torch.allclose(got[name], own[name], atol=1e-5) for name in got)
