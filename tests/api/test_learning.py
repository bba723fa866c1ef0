"""Learning coefficients end to end: derivatives, heads, kinds of models, resuming, what is refused before any pass."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.calibrate.entropy import drawn
from eutectic.engine.events import Calibrating, Event
from eutectic.errors import CalibrationError, OutputError, OverBudget, RecipeError
from tests.make.transformer import config, family, save, texts

HEAD = {"pool": "mean", "normalize": True, "scale": 20}


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and two experts, classifiers of three classes, with texts, frozen heads and prompts."""
    folder = tmp_path_factory.mktemp("berts")
    family(folder, "BertForSequenceClassification", config("bert", num_labels=3))
    for k in range(2):
        texts(folder / f"data{k}.jsonl", 20, seed=k)
        rows = torch.randn(4 + k, 16, generator=torch.Generator().manual_seed(k))
        save_file({"weight": rows}, folder / f"head{k}.safetensors")
        texts(folder / f"prompts{k}.jsonl", 4 + k, seed=10 + k)
    return folder


def recipe(folder: Path, method: Any = "task_arithmetic", head: Any = None, **more: Any) -> eutectic.Recipe:
    """A recipe over two experts; heads are the models' own unless one is named."""
    said = {"data": {f"e{k}": str(folder / f"data{k}.jsonl") for k in range(2)}, "batch": 5}
    said |= more.pop("calibration", {}) | ({} if head is None else {"head": head})
    models = [{"model": str(folder / f"expert{k}"), "name": f"e{k}"} for k in range(2)]
    rules = more.pop("rules", [{"role": "head", "keep": "base"}])
    return eutectic.merge(models, base=str(folder / "base"), method=method, rules=rules, calibration=said, **more)


def files(folder: Path, kind: str) -> dict[str, Any]:
    """A head's section: weights or prompts of every task."""
    end = "safetensors" if kind == "weights" else "jsonl"
    start = "head" if kind == "weights" else "prompts"
    return {kind: {f"e{k}": str(folder / f"{start}{k}.{end}") for k in range(2)}, **HEAD}


def learn(made: Any, store: Path, watch: Any = (), **how: Any) -> eutectic.Learned:
    """Learns, with few steps unless it is said."""
    how = {"steps": 3, "rate": 0.05, "memory": "1 GiB", **how}
    return eutectic.learn(eutectic.plan_learning(made, store=store, **how), watch=watch)


def loss(folder: Path, weights: Mapping[str, torch.Tensor], batches: int, seed: int = 0, step: int = 1) -> torch.Tensor:
    """The entropy of one step by transformers alone, through autograd: merged weights under each expert's own head."""
    total = torch.zeros(())
    for k in range(2):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / f"expert{k}").eval()
        words = transformers.AutoTokenizer.from_pretrained(folder / "base")
        rows = [json.loads(line)["text"] for line in (folder / f"data{k}.jsonl").read_text().splitlines()]
        chosen = drawn(len(rows), 5 * batches, seed, f"e{k}", step)
        for first in range(0, len(chosen), 5):
            inputs = words([rows[at] for at in chosen[first : first + 5]], return_tensors="pt", padding=True)
            logits = torch.func.functional_call(model, dict(weights), kwargs=dict(inputs)).logits
            total = total + torch.distributions.Categorical(logits=logits).entropy().mean()
    return total


def task_vectors(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The base's tensors without its head, and deltas (2, *shape)."""
    base, *experts = (load_file(folder / name / "model.safetensors") for name in ("base", "expert0", "expert1"))
    names = [name for name in base if not name.startswith("classifier")]
    deltas = {name: torch.stack([e[name] - base[name] for e in experts]) for name in names}
    return {name: base[name] for name in names}, deltas


def weighed(values: torch.Tensor, base: Mapping[str, torch.Tensor], deltas: Mapping[str, torch.Tensor]) -> Any:
    """Base + sum of values[tensor, i] * delta i."""
    return {name: base[name] + torch.tensordot(values[at], deltas[name], 1) for at, name in enumerate(deltas)}


def test_three_steps_are_those_of_autograd(berts: Path, tmp_path: Path) -> None:
    """Adam over coefficients as leaves, the merge within the graph, each expert's own head: the same to 1e-4."""
    base, deltas = task_vectors(berts)
    raw = torch.full((len(base), 2), 0.3, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.05)
    losses = []
    for step in range(1, 4):
        optimizer.zero_grad()
        found = loss(berts, weighed(raw.clamp(0, 1), base, deltas), batches=2, step=step)
        found.backward()
        losses.append(float(found.detach()))
        optimizer.step()
    ours = learn(recipe(berts), tmp_path / "store")
    rows = dict(zip(ours.labels, ours.coefficients, strict=True))
    # Adam makes steps of rounding where a derivative is 0: keys' biases cancel in the softmax.
    firm = [at for at, name in enumerate(base) if "key.bias" not in name and "position" not in name]
    theirs = raw.detach().clamp(0, 1)
    got = torch.tensor([rows[name] for name in base])
    assert torch.allclose(got[firm], theirs[firm], atol=1e-3)
    assert ours.losses == pytest.approx(losses, abs=1e-4)


def test_derivatives_are_differences(berts: Path, tmp_path: Path) -> None:
    """The first step moves each coefficient against the sign of the loss's difference, where that is clear."""
    base, deltas = task_vectors(berts)
    start = torch.full((len(base), 2), 0.3)
    ours = learn(recipe(berts), tmp_path / "store", steps=1, rate=0.01)
    rows = dict(zip(ours.labels, ours.coefficients, strict=True))
    checked = 0
    with torch.no_grad():
        for at, name in enumerate(base):
            for model in range(2):
                sides = []
                for sign in (1, -1):
                    moved = start.clone()
                    moved[at, model] += sign * 0.05
                    sides.append(float(loss(berts, weighed(moved, base, deltas), batches=2)))
                slope = (sides[0] - sides[1]) / 0.1
                if abs(slope) > 1e-3:
                    checked += 1
                    assert rows[name][model] == pytest.approx(0.29 if slope > 0 else 0.31, abs=1e-4), name
    assert checked > 20


@pytest.mark.parametrize("kind", ["weights", "prompts"])
@pytest.mark.parametrize("by", ["tensor", "block", "model"])
def test_frozen_heads_and_groups(berts: Path, tmp_path: Path, kind: str, by: Any) -> None:
    """Every way to group; the entropy that was learned is that of the model which the learned recipe makes."""
    made = recipe(berts, head=files(berts, kind))
    found = learn(made, tmp_path / "store", by=by, batches=4, steps=8, rate=0.05)
    assert found.losses[-1] < found.losses[0]  # four batches of five are all samples
    labels = {"block": {"before", "0", "1", "behind"}, "model": {"model"}}
    assert set(found.labels) == labels.get(by, set(found.labels))
    found.save(tmp_path / "learned.yaml")
    learned = eutectic.read(tmp_path / "learned.yaml")
    again = learn(learned, tmp_path / "again", by=by if by != "model" else "tensor", batches=4, steps=1)
    one_more = learn(made, tmp_path / "store", by=by, batches=4, steps=9, rate=0.05)
    assert again.losses[0] == pytest.approx(one_more.losses[-1], abs=1e-4)


def test_prompts_are_embedded_by_the_base(berts: Path, tmp_path: Path) -> None:
    """A head of prompts is the head whose rows are the base's features of them."""
    model = transformers.AutoModel.from_pretrained(berts / "base").eval()
    words = transformers.AutoTokenizer.from_pretrained(berts / "base")
    heads = {}
    for k in range(2):
        rows = [json.loads(line)["text"] for line in (berts / f"prompts{k}.jsonl").read_text().splitlines()]
        inputs = words(rows, return_tensors="pt", padding=True)
        mask = inputs["attention_mask"].unsqueeze(-1)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state * mask
        save_file({"weight": hidden.sum(1) / mask.sum(1)}, tmp_path / f"head{k}.safetensors")
        heads[f"e{k}"] = str(tmp_path / f"head{k}.safetensors")
    one = learn(recipe(berts, head=files(berts, "prompts")), tmp_path / "store")
    other = learn(recipe(berts, head={"weights": heads, **HEAD}), tmp_path / "store")
    assert one.losses == pytest.approx(other.losses, abs=1e-4)


def test_little_memory_is_the_same_to_the_last_digit(berts: Path, tmp_path: Path) -> None:
    """Task vectors that are read twice a step, or kept; and the plan says which."""
    made = recipe(
        berts,
        [{"trim": {"density": 0.5}}, {"elect": {"tie": "majority"}}, {"tatr": {"ratio": 0.05}}, "task_arithmetic"],
    )
    roomy = eutectic.plan_learning(made, steps=3, memory="1 GiB", store=tmp_path / "one")
    needed = roomy.peak - roomy.memory["deltas"]
    tight = eutectic.plan_learning(made, steps=3, memory=needed, store=tmp_path / "other")
    assert "kept in memory" in roomy.explain()
    assert "read again in every step" in tight.explain()
    assert tight.peak <= needed
    assert tight.describe()["read_again"] > 0
    one, other = eutectic.learn(roomy), eutectic.learn(tight)
    assert one.coefficients == other.coefficients
    assert one.losses == other.losses
    with pytest.raises(OverBudget, match="its gradient and a batch's activations") as refused:
        eutectic.plan_learning(made, memory=needed // 4, store=tmp_path / "none")
    assert (
        eutectic.plan_learning(made, memory=refused.value.needed, store=tmp_path / "none").peak <= refused.value.needed
    )


def test_a_stopped_run_goes_on(berts: Path, tmp_path: Path) -> None:
    """Stopped behind any step, the same call makes the rest, to the same numbers; done, it makes none."""
    whole = learn(recipe(berts), tmp_path / "whole", steps=4)

    class StopError(Exception):
        pass

    for stop in (1, 3):
        store = tmp_path / f"store{stop}"

        def watch(event: Event, stop: int = stop) -> None:
            if isinstance(event, Calibrating) and event.done == stop:
                raise StopError

        with pytest.raises(StopError):
            learn(recipe(berts), store, [watch], steps=4)
        assert eutectic.plan_learning(recipe(berts), steps=4, rate=0.05, store=store).done == stop
        seen: list[Event] = []
        again = learn(recipe(berts), store, [seen.append], steps=4)
        assert [event.done for event in seen if isinstance(event, Calibrating)] == list(range(stop + 1, 5))
        assert again.coefficients == whole.coefficients
        assert again.losses == whole.losses
    assert learn(recipe(berts), tmp_path / "whole", [pytest.fail], steps=4).coefficients == whole.coefficients
    other = learn(recipe(berts, seed=1), tmp_path / "whole", steps=4)
    assert other.losses != whole.losses


def test_heads_of_different_widths_stay_apart(tmp_path: Path) -> None:
    """Experts of three and five classes around a base that has no head: each predicts by its own."""
    save(tmp_path / "base", config("bert"), "BertModel", 1)
    for k, classes in enumerate((3, 5)):
        save(tmp_path / f"expert{k}", config("bert", num_labels=classes), "BertForSequenceClassification", 2 + k)
        texts(tmp_path / f"data{k}.jsonl", 10, seed=k)
    made = recipe(tmp_path, rules=[], extra="drop")
    found = learn(made, tmp_path / "store", steps=6, batches=2)
    assert found.losses[-1] < found.losses[0] < float(torch.tensor([3.0, 5.0]).log().sum()) * 2
    eutectic.run(eutectic.plan(found.recipe), out=tmp_path / "out")
    assert not any("classifier" in name for name in load_file(tmp_path / "out" / "model.safetensors"))


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("llama", "LlamaForCausalLM"),
        ("gpt2", "GPT2LMHeadModel"),
        ("t5", "T5ForConditionalGeneration"),
        ("bert", "BertForMaskedLM"),
    ],
)
def test_language_models_predict_tokens(tmp_path: Path, kind: str, cls: str) -> None:
    """Decoders and encoder-decoders learn from the entropy of their own words, padding aside; tied heads move along."""
    family(tmp_path, cls, config(kind))
    for k in range(2):
        texts(tmp_path / f"data{k}.jsonl", 10, seed=k)
    found = learn(recipe(tmp_path, rules=[]), tmp_path / "store", steps=5, batches=2, rate=0.1)
    assert found.losses[-1] < found.losses[0]
    assert found.losses[0] < 4 * float(torch.tensor(64.0).log())


def test_images(tmp_path: Path) -> None:
    """A vision transformer on ready pixels."""
    family(tmp_path, "ViTForImageClassification", config("vit", num_labels=4), words=False)
    for k in range(2):
        save_file({"pixel_values": torch.randn(10, 3, 8, 8)}, tmp_path / f"data{k}.safetensors")
    said = {"data": {f"e{k}": str(tmp_path / f"data{k}.safetensors") for k in range(2)}}
    found = learn(recipe(tmp_path, calibration=said), tmp_path / "store", steps=5, batches=2)
    assert found.losses[-1] < found.losses[0]


def test_clip_with_prompts(tmp_path: Path) -> None:
    """Images through the vision tower; its heads are texts through the base's text tower, which nothing moves."""
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 16, "eos_token_id": 2, "bos_token_id": 1}
    image = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = transformers.CLIPConfig(
        text_config=text, vision_config=image | {"image_size": 8, "patch_size": 4}, projection_dim=12
    )
    family(tmp_path, "CLIPModel", settings)
    said: dict[str, Any] = {"data": {}}
    for k in range(2):
        save_file({"pixel_values": torch.randn(10, 3, 8, 8)}, tmp_path / f"data{k}.safetensors")
        said["data"][f"e{k}"] = str(tmp_path / f"data{k}.safetensors")
        texts(tmp_path / f"prompts{k}.jsonl", 4, seed=k)
    made = recipe(tmp_path, head=files(tmp_path, "prompts"), calibration=said, rules=[])
    found = learn(made, tmp_path / "store", steps=5, batches=2)
    assert found.losses[-1] < found.losses[0]
    rows = dict(zip(found.labels, found.coefficients, strict=True))
    text, vision = ([row for name, row in rows.items() if name.startswith(tower)] for tower in ("text", "vision"))
    assert text == [pytest.approx((0.3, 0.3))] * len(text)
    assert vision != [pytest.approx((0.3, 0.3))] * len(vision)


def test_adapters(berts: Path, tmp_path: Path) -> None:
    """LoRA experts: only what they change is learned, the rest is the base's."""
    for k in range(2):
        folder = tmp_path / f"lora{k}"
        folder.mkdir()
        name = "base_model.model.bert.encoder.layer.0.intermediate.dense"
        source = torch.Generator().manual_seed(k)
        a, b = (torch.randn(shape, generator=source) for shape in ((2, 16), (24, 2)))
        save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, folder / "adapter_model.safetensors")
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["intermediate.dense"]}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    said = {"data": {f"e{k}": str(berts / f"data{k}.jsonl") for k in range(2)}, "batch": 5}
    models = [{"model": str(tmp_path / f"lora{k}"), "name": f"e{k}"} for k in range(2)]
    made = eutectic.merge(
        models,
        base=str(berts / "base"),
        method="task_arithmetic",
        calibration={**said, "head": files(berts, "weights")},
    )
    found = learn(made, tmp_path / "store", steps=5, batches=4)
    assert found.labels == ("bert.encoder.layer.0.intermediate.dense.weight",)
    assert found.losses[-1] < found.losses[0]


def test_where_it_starts(berts: Path, tmp_path: Path) -> None:
    """The recipe's own weights, by model and by rule; 0.3 where it has none; or what is asked for."""

    def starts(made: Any, **how: Any) -> Any:
        return eutectic.plan_learning(made, store=tmp_path, **how).coefficients

    assert set(starts(recipe(berts)).start) == {(0.3, 0.3)}
    assert set(starts(recipe(berts), start=0.1).start) == {(0.1, 0.1)}
    rules = [{"role": "head", "keep": "base"}, {"blocks": "0", "models": ["e1"], "set": {"weight": 0.7}}]
    found = starts(recipe(berts, {"task_arithmetic": {"weight": 0.4, "scale": 0.5}}, rules=rules), by="block")
    assert dict(zip(found.labels, found.start, strict=True))["0"] == (0.4, 0.7)
    assert dict(zip(found.labels, found.start, strict=True))["1"] == (0.4, 0.4)
    assert set(found.scale.values()) == {0.5}


@pytest.mark.parametrize(
    ("method", "more", "error", "match"),
    [
        ("ties", {}, RecipeError, "a chain that ends in task_arithmetic, whose weights are learned, found ties"),
        ({"task_arithmetic": {"normalize": True}}, {}, RecipeError, "leave out normalize"),
        ({"task_arithmetic": {"weight": "nan"}}, {}, RecipeError, "say where learning starts with --start"),
        ("task_arithmetic", {"rules": [{"match": "*", "keep": "base"}]}, RecipeError, "found none"),
    ],
)
def test_recipes_without_anything_to_learn(berts: Path, method: Any, more: Any, error: Any, match: str) -> None:
    """Said before any pass."""
    with pytest.raises(error, match=match):
        eutectic.plan_learning(recipe(berts, method, **more))


def test_data_that_does_not_fit_is_refused_before_any_pass(berts: Path, tmp_path: Path) -> None:
    """Empty, test data by its name, a head of another width, no tokenizer, none that predicts; and odd numbers."""
    (tmp_path / "empty.jsonl").write_text("")
    texts(tmp_path / "test.jsonl", 4)
    save_file({"weight": torch.ones(3, 9)}, tmp_path / "head.safetensors")

    def refused(match: str, made: Any, **how: Any) -> None:
        with pytest.raises(CalibrationError, match=match):
            eutectic.plan_learning(made, store=tmp_path / "store", **how)

    refused("expected samples, found none", recipe(berts, calibration={"data": str(tmp_path / "empty.jsonl")}))
    tested = recipe(berts, calibration={"data": str(tmp_path / "test.jsonl")})
    refused("found test data by its name", tested)
    assert eutectic.plan_learning(tested, store=tmp_path, transductive=True).how.transductive
    refused("width 16, found one of 9", recipe(berts, head={"weights": str(tmp_path / "head.safetensors")}))
    refused("expected a file", recipe(berts, head={"prompts": str(tmp_path / "none.jsonl")}))
    refused("steps: expected a number above 0", recipe(berts), steps=0)
    with pytest.raises(RecipeError, match="add calibration"):
        eutectic.plan_learning(
            eutectic.merge([str(berts / "expert0")], base=str(berts / "base"), method="task_arithmetic")
        )
    bare, plain = tmp_path / "bare", tmp_path / "plain"
    for folder, words in ((bare, False), (plain, True)):
        family(folder, "BertModel", config("bert"), words=words)
        for k in range(2):
            texts(folder / f"data{k}.jsonl", 4, seed=k)
    refused("expected a tokenizer for texts", recipe(bare, head=files(berts, "weights"), rules=[]))
    refused("has no head; name one under", recipe(plain, rules=[]))


def test_the_learned_recipe_is_written_where_its_paths_are(berts: Path, tmp_path: Path) -> None:
    """Beside the recipe it came from, if that has relative paths."""
    text = recipe(berts).to_yaml().replace(f"{berts}/", "")
    (berts / "recipe.yaml").write_text(text)
    found = learn(berts / "recipe.yaml", tmp_path / "store", steps=1)
    with pytest.raises(OutputError, match=r"base is found from .*; write the learned recipe there"):
        found.save(tmp_path / "learned.yaml")
    found.save(berts / "learned.yaml")
    assert (
        (berts / "learned.yaml").read_text().startswith("# learned by AdaMerging, a weight for each tensor and model")
    )
    eutectic.run(eutectic.plan(berts / "learned.yaml"), out=tmp_path / "out")
    base, deltas = task_vectors(berts)
    values = torch.tensor([dict(zip(found.labels, found.coefficients, strict=True))[name] for name in base])
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, expected in weighed(values, base, deltas).items():
        assert torch.allclose(merged[name], expected, atol=1e-5)
