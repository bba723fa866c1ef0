"""Models of different vocabularies, end to end: real tokenizers in, folders out that transformers loads and runs."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import eutectic
from eutectic.checkpoint.open import open_checkpoint
from eutectic.errors import CheckpointError, MismatchError, OverBudget, RecipeError
from eutectic.plan.vocabulary import bridge
from eutectic.recipe.parse import read_recipe
from tests.make.adapters import factors, write_adapter
from tests.make.checkpoints import read, write_file
from tests.make.vocabularies import ENGLISH, HIDDEN, SEA, byte_level, read_json, unigram, word_piece, write_llama

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import AutoModelForCausalLM, AutoTokenizer

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FIRST = {"bos_token": "<s>", "eos_token": "</s>"}
SECOND = {"bos_token": "<bos>", "eos_token": "<eos>"}
TEXT = "the birds sat on the mat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models `a` and `b` of different byte-level vocabularies; `c` has a's; `half` is b in bfloat16; `tied` ties."""
    root = tmp_path_factory.mktemp("models")
    ours, theirs = byte_level(ENGLISH, ["<s>", "</s>"]), byte_level(SEA, ["<bos>", "<eos>", "<tool>"])
    write_llama(root / "a", ours, 0, roles=FIRST)
    write_llama(root / "b", theirs, 1, roles=SECOND)
    write_llama(root / "c", ours, 2, roles=FIRST)
    write_llama(root / "half", theirs, 1, roles=SECOND, dtype=torch.bfloat16)
    write_llama(root / "tied", theirs, 3, roles=SECOND, tied=True)
    write_llama(root / "tied_a", ours, 4, roles=FIRST, tied=True)
    write_llama(root / "padded", ours, 5, roles=FIRST, extra_rows=7)
    write_llama(root / "wide", theirs, 6, roles=SECOND, hidden=2 * HIDDEN)
    write_llama(root / "bert", word_piece(ENGLISH), 7)
    write_llama(root / "t5", unigram(SEA), 8)
    return root


def merged(folder: Path, out: Path, vocabulary: Any, *models: str, **more: Any) -> Path:
    """Merges models of the folder by averaging."""
    recipe = {"models": [str(folder / name) for name in models], "method": "linear", "vocabulary": vocabulary}
    eutectic.run(eutectic.plan(recipe | more, memory="1 GiB"), out)
    return out


def rows_of(model: Path, name: str = EMBEDDING) -> dict[str, torch.Tensor]:
    """Returns a model's rows by token."""
    matrix = load_file(model / "model.safetensors")[name]
    return {token: matrix[number] for token, number in AutoTokenizer.from_pretrained(model).get_vocab().items()}


def runs(model: Path, text: str = TEXT) -> list[int]:
    """Loads a model and its tokenizer, encodes and decodes a text, runs it, and returns its ids."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded, report = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    encoded = tokenizer(text, return_tensors="pt")
    logits = loaded(**{key: encoded[key] for key in ("input_ids", "attention_mask")}).logits
    assert logits.shape[-1] == loaded.config.vocab_size >= len(tokenizer)
    assert logits.isfinite().all()
    assert tokenizer.decode(encoded["input_ids"][0], skip_special_tokens=True) == text
    ids: list[int] = encoded["input_ids"][0].tolist()
    return ids


def test_union(folder: Path, tmp_path: Path) -> None:
    """All tokens of both: shared rows are averaged, a token of one model has that model's row; a's numbers stay."""
    out = merged(folder, tmp_path / "out", {"tokenizer": "union"}, "a", "b")
    first, second = rows_of(folder / "a"), rows_of(folder / "b")
    for name in (EMBEDDING, HEAD):
        ours, theirs, got = (rows_of(each, name) for each in (folder / "a", folder / "b", out))
        assert got.keys() == ours.keys() | theirs.keys()
        for token, row in got.items():
            both = [rows[token] for rows in (ours, theirs) if token in rows]
            assert torch.equal(row, both[0] if len(both) == 1 else (both[0] + both[1]) / 2)
    vocabulary = AutoTokenizer.from_pretrained(out).get_vocab()
    assert {token: vocabulary[token] for token in first} == AutoTokenizer.from_pretrained(folder / "a").get_vocab()
    assert list(vocabulary.values()).count(len(first)) == 1
    assert len(second.keys() - first.keys()) == len(vocabulary) - len(first)
    runs(out)
    assert AutoTokenizer.from_pretrained(out).tokenize("<tool> birds")[0] == "<tool>"
    config = read_json(out / "config.json")
    assert config["vocab_size"] == len(vocabulary)
    assert config["eos_token_id"] == vocabulary["</s>"]


def test_extended_is_the_default(folder: Path, tmp_path: Path) -> None:
    """Added tokens of the others come in; ordinary text is split as the first model's."""
    out = merged(folder, tmp_path / "out", {"pad_to_multiple_of": 16}, "a", "b")
    ours, got = AutoTokenizer.from_pretrained(folder / "a"), AutoTokenizer.from_pretrained(out)
    assert got.get_vocab().keys() - ours.get_vocab().keys() == {"<bos>", "<eos>", "<tool>"}
    assert runs(out) == ours(TEXT)["input_ids"]
    matrix = load_file(out / "model.safetensors")[EMBEDDING]
    assert len(matrix) % 16 == 0
    assert len(matrix) > len(got)
    assert torch.allclose(matrix[-1], matrix[: len(got)].mean(0), atol=1e-6)


def test_intersection(folder: Path, tmp_path: Path) -> None:
    """Tokens of both, and a's special ones, numbered anew; config and generation config follow."""
    out = merged(folder, tmp_path / "out", {"tokenizer": "intersection"}, "b", "a")
    ours, theirs, got = (AutoTokenizer.from_pretrained(each).get_vocab() for each in (folder / "b", folder / "a", out))
    assert got.keys() == (ours.keys() & theirs.keys()) | {"<bos>", "<eos>", "<tool>"}
    assert sorted(got.values()) == list(range(len(got)))
    runs(out)
    for name in ("config.json", "generation_config.json"):
        assert read_json(out / name)["eos_token_id"] == got["<eos>"]
        assert read_json(out / name)["bos_token_id"] == got["<bos>"]
    assert len(load_file(out / "model.safetensors")[HEAD]) == len(got)


def test_one_models_tokenizer(folder: Path, tmp_path: Path) -> None:
    """The tokens of b with a's config: the special ids are b's, and its files are copied as they are."""
    out = merged(folder, tmp_path / "out", {"tokenizer": str(folder / "b")}, "a", "b")
    assert (out / "tokenizer.json").read_bytes() == (folder / "b" / "tokenizer.json").read_bytes()
    assert read_json(out / "config.json")["bos_token_id"] == 0
    vocabulary = AutoTokenizer.from_pretrained(out).get_vocab()
    assert read_json(out / "config.json")["eos_token_id"] == vocabulary["<eos>"]
    assert torch.equal(rows_of(out)["<tool>"], rows_of(folder / "b")["<tool>"])
    runs(out)


def test_a_donor_of_another_width(folder: Path, tmp_path: Path) -> None:
    """A model takes another's tokenizer: shared rows stay, the others are predicted in its own space."""
    vocabulary = {"donor": str(folder / "wide"), "fill": {"omp": {"k": 8}}, "match": "normalised"}
    out = merged(folder, tmp_path / "out", vocabulary, "a")
    got, ours = rows_of(out), rows_of(folder / "a")
    assert got.keys() == rows_of(folder / "wide").keys()
    assert all(torch.equal(got[token], ours[token]) for token in got.keys() & ours.keys())
    assert torch.equal(got["<bos>"], ours["<s>"])
    made = torch.stack([got[token] for token in got.keys() - ours.keys() - {"<bos>", "<eos>"}])
    assert (made.norm(dim=1) > 0).all()
    assert made.shape[1] == HIDDEN
    assert runs(out) == AutoTokenizer.from_pretrained(folder / "wide")(TEXT)["input_ids"]


@pytest.mark.parametrize(
    ("fill", "rank"),
    [("zero", 0), ("mean", 1), ("nearest", 9), ({"interpolate": {"k": 3}}, 9), ({"project": {"map": "ridge"}}, 9)],
)
def test_fills(folder: Path, tmp_path: Path, fill: Any, rank: int) -> None:
    """What b lacks is made by the rule; `a` is not touched."""
    out = merged(folder, tmp_path / "out", {"donor": str(folder / "a"), "fill": fill}, "b")
    recipe = {"models": [str(folder / "b"), str(folder / "a")], "method": "linear"}
    policy = {"tokenizer": str(folder / "a"), "fill": fill}
    models = [open_checkpoint(str(folder / name)) for name in ("b", "a")]
    found = bridge(read_recipe(recipe | {"vocabulary": policy}), None, models, None)
    assert found is not None
    spec = found.models[0].source.header[EMBEDDING]
    assert spec.dtype.name == "F32"
    values = torch.from_numpy(read(found.models[0].source, EMBEDDING)).view(torch.float32).reshape(spec.shape)
    lacking = rows_of(folder / "a").keys() - rows_of(folder / "b").keys()
    numbers = AutoTokenizer.from_pretrained(folder / "a").get_vocab()
    made = values[[numbers[token] for token in sorted(lacking)]]
    assert min(int(torch.linalg.matrix_rank(made)), 9) == rank
    if fill == "mean":
        assert torch.allclose(made[0], load_file(folder / "b" / "model.safetensors")[EMBEDDING].mean(0), atol=1e-6)
    if fill == "nearest":
        theirs = load_file(folder / "b" / "model.safetensors")[EMBEDDING]
        assert all((theirs == row).all(1).any() for row in made)
    assert out.exists()


def test_single_tokens(folder: Path, tmp_path: Path) -> None:
    """A row of another token, zeros, and one that is forced onto the model that has its own; a new token is found."""
    a, b = str(folder / "a"), str(folder / "b")
    tokens = {
        "<tool>": {"model": a, "token": "</s>"},  # a lacks it
        "<s>": {"model": b, "token": "<bos>", "force": True},
        "<new>": "zero",
        "<same>": {"model": b, "id": 2},
    }
    out = merged(folder, tmp_path / "out", {"tokenizer": "union", "tokens": tokens}, "a", "b")
    ours, theirs, got = (rows_of(each) for each in (folder / "a", folder / "b", out))
    assert torch.equal(got["<tool>"], (ours["</s>"] + theirs["<tool>"]) / 2)
    assert torch.equal(got["<s>"], theirs["<bos>"])
    assert torch.equal(got["<new>"], torch.zeros(HIDDEN))
    assert torch.equal(got["<same>"], theirs["<tool>"])
    assert AutoTokenizer.from_pretrained(out).tokenize("cat<new>cat").count("<new>") == 1


METHODS: dict[str, Any] = {
    "ties": {"ties": {"density": 0.5}},
    "dare": [{"dare": {"density": 0.5}}, "task_arithmetic"],
    "slerp": {"slerp": {"t": 0.3}},
    "stock": "model_stock",
}


@pytest.mark.parametrize("key", METHODS)
def test_methods_see_ordinary_models(folder: Path, tmp_path: Path, key: str) -> None:
    """The bytes are those of merging models that were brought to the union beforehand, row by row, by hand."""
    names = ["b"] if key == "slerp" else ["b", "c"]
    policy = {"tokenizer": "union", "pad_to_multiple_of": 8}
    base = {"base": str(folder / "a")} if key != "slerp" else {}
    models = ["a", "b"] if key == "slerp" else names
    merged(folder, tmp_path / "out", policy, *models, method=METHODS[key], seed=3, **base)
    paths = {name: open_checkpoint(str(folder / name)) for name in ("a", *names)}
    recipe = read_recipe({"models": [str(folder / name) for name in models], "method": "linear", **base})
    recipe = read_recipe(recipe.to_dict() | {"vocabulary": policy})
    found = bridge(recipe, paths["a"] if base else None, [paths[name] for name in models], None)
    assert found is not None
    plain = tmp_path / "plain"
    for name, each in zip(["a", *names], [*([found.base] if found.base else []), *found.models], strict=True):
        tensors = {
            key: torch.from_numpy(read(each.source, key)).view(torch.float32).reshape(spec.shape)
            for key, spec in each.source.header.items()
        }
        write_file(plain / name / "model.safetensors", tensors)
    asked = {"models": [str(plain / name) for name in models], "method": METHODS[key], "seed": 3}
    asked |= {"base": str(plain / "a")} if base else {}
    eutectic.run(eutectic.plan(asked, memory="1 GiB"), tmp_path / "by hand")
    got, want = (load_file(tmp_path / each / "model.safetensors") for each in ("out", "by hand"))
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_types_stay_and_are_rounded_once(folder: Path, tmp_path: Path) -> None:
    """A base in bfloat16 gives an output in bfloat16, though means of rows are made in float32."""
    models = ["half", "a", "c"]
    out = merged(folder, tmp_path / "out", {"tokenizer": "union"}, *models)
    stored = load_file(out / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    half, first, third = (rows_of(folder / name) for name in models)
    got = rows_of(out)
    token = next(token for token in first if token not in half)
    mean = (first[token].double() + third[token].double()) / 2  # half's row of it
    want = (mean.float().double() + first[token].double() + third[token].double()) / 3
    assert torch.equal(got[token], want.to(torch.bfloat16))


def test_tied_heads(folder: Path, tmp_path: Path) -> None:
    """Tied models stay tied; one of both kinds takes the head's rows from the embedding."""
    out = merged(folder, tmp_path / "out", {"tokenizer": "union"}, "tied_a", "tied")
    assert HEAD not in load_file(out / "model.safetensors")
    assert read_json(out / "config.json")["tie_word_embeddings"] is True
    runs(out)
    out = merged(folder, tmp_path / "mixed", {"tokenizer": "union"}, "a", "tied")
    head, embedding = rows_of(out, HEAD), rows_of(folder / "tied")
    assert torch.equal(head["<tool>"], embedding["<tool>"])
    runs(out)


def test_rows_without_tokens(folder: Path, tmp_path: Path) -> None:
    """A matrix with more rows than tokens counts up to the last token."""
    out = merged(folder, tmp_path / "out", {"tokenizer": "base"}, "c", base=str(folder / "padded"))
    assert len(load_file(out / "model.safetensors")[EMBEDDING]) == len(AutoTokenizer.from_pretrained(out))
    runs(out)


@pytest.mark.parametrize(("first", "second"), [("bert", "a"), ("t5", "a"), ("a", "bert"), ("a", "t5"), ("t5", "bert")])
def test_tokenizers_of_different_kinds(folder: Path, tmp_path: Path, first: str, second: str) -> None:
    """Pieces are matched where they mean the same; what the first tokenizer knew is split as it was."""
    policy = {"tokenizer": "union", "match": "normalised"}
    out = merged(folder, tmp_path / "out", policy, first, second)
    ours, got = AutoTokenizer.from_pretrained(folder / first), AutoTokenizer.from_pretrained(out)
    assert got.get_vocab().items() >= ours.get_vocab().items()
    assert len(load_file(out / "model.safetensors")[EMBEDDING]) == len(got)
    text = "birds sing" if first == "t5" else "the cat sat"
    assert got(text)["input_ids"] == ours(text)["input_ids"]


def test_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Threads and memory change nothing, and verify makes every tensor again."""
    recipe = {
        "models": [str(folder / "a"), str(folder / "b")],
        "method": "linear",
        "vocabulary": {"tokenizer": "union", "fill": {"omp": {"k": 4}}, "pad_to_multiple_of": 64},
    }
    for number, options in enumerate(({"threads": 1, "memory": "64 MiB"}, {"threads": 3, "memory": "1 GiB"})):
        eutectic.run(eutectic.plan(recipe, **options), tmp_path / f"{number}")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("0", "1"))
    assert first == second
    assert eutectic.verify(tmp_path / "0", sample=None).ok


def test_predicted_rows_are_priced(folder: Path) -> None:
    """What they hold is part of the peak, and of the budget that a refusal names."""
    recipe: dict[str, Any] = {"models": [str(folder / "a"), str(folder / "b")], "method": "linear"}
    plain = eutectic.plan(recipe | {"vocabulary": {"tokenizer": "union"}}, memory="1 GiB")
    priced = eutectic.plan(recipe | {"vocabulary": {"tokenizer": "union", "fill": "nearest"}}, memory="1 GiB")
    assert priced.peak > plain.peak
    with pytest.raises(OverBudget, match="matching tokens holds") as refused:
        eutectic.plan(recipe | {"vocabulary": {"tokenizer": "union", "fill": "nearest"}}, memory="24 MiB")
    eutectic.plan(recipe | {"vocabulary": {"tokenizer": "union", "fill": "nearest"}}, memory=refused.value.needed)


def test_the_plan_says_what_it_does(folder: Path) -> None:
    """Tokens, rows, who lacks how many, and which files are left out."""
    recipe = {
        "models": [str(folder / "a"), str(folder / "b")],
        "method": "linear",
        "vocabulary": {"tokenizer": "union"},
    }
    planned = eutectic.plan(recipe, memory="1 GiB")
    assert any("vocabulary: union of" in note for note in planned.notes)
    assert any("b lacks" in note and "filled by shared" in note for note in planned.notes)


def test_without_the_policy(folder: Path) -> None:
    """The error names sizes and tokens, and the settings that would do."""
    recipe = {"models": [str(folder / "a"), str(folder / "b")], "method": "linear"}
    with pytest.raises(MismatchError, match="different numbers of tokens") as refused:
        eutectic.plan(recipe, memory="1 GiB")
    assert "vocabulary: {tokenizer: union}" in str(refused.value)
    assert "the tokenizers differ" in str(refused.value)
    assert "'<bos>', '<eos>', '<tool>'" in str(refused.value)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"tokenizer": "union", "tokens": {"<tool>": {"model": "A", "token": "</S>"}}}, "did you mean '</s>'"),
        ({"tokenizer": "union", "tokens": {"<toll>": {"model": "B"}}}, "has no token '<toll>'; did you mean '<tool>'"),
        ({"tokenizer": "union", "tokens": {"x": {"model": "A", "id": 10**6}}}, "found none of number 1000000"),
    ],
)
def test_tokens_that_do_not_exist(folder: Path, policy: Any, said: str) -> None:
    """The message names the nearest."""
    models = [{"model": str(folder / "a"), "name": "A"}, {"model": str(folder / "b"), "name": "B"}]
    with pytest.raises(RecipeError) as refused:
        eutectic.plan({"models": models, "method": "linear", "vocabulary": policy}, memory="1 GiB")
    assert said in str(refused.value)


def test_models_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    """A bare weight file has no tokens to match."""
    path = write_file(tmp_path / "bare.safetensors", load_file(folder / "a" / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"bare\.safetensors: expected a tokenizer\.json"):
        merged(folder, tmp_path / "out", {"tokenizer": "union"}, "a", str(path))


def test_a_kept_tensor_keeps_its_type(folder: Path, tmp_path: Path) -> None:
    """A head taken from a base in bfloat16 is written in it, a row that had to be made is rounded once."""
    rules = [{"match": HEAD, "keep": "base"}]
    out = merged(folder, tmp_path / "out", {"tokenizer": "union"}, "a", base=str(folder / "half"), rules=rules)
    got, want, other = (rows_of(each, HEAD) for each in (out, folder / "half", folder / "a"))
    assert got["<s>"].dtype == torch.bfloat16
    assert all(torch.equal(got[token], row) for token, row in want.items())
    assert torch.equal(got["<s>"], other["<s>"].to(torch.bfloat16))


def test_a_stage_beside_another_vocabulary(folder: Path, tmp_path: Path) -> None:
    """A recipe within has its models' tokens, and is brought to the output's like a model."""
    inner = {"models": [str(folder / "a"), str(folder / "c")], "method": "linear"}
    recipe: dict[str, Any] = {
        "models": [{"recipe": inner, "name": "both"}, str(folder / "b")],
        "method": "linear",
        "vocabulary": {"tokenizer": "union"},
    }
    eutectic.run(eutectic.plan(recipe, memory="1 GiB"), tmp_path / "out")
    got, first, third, second = (rows_of(each) for each in (tmp_path / "out", *(folder / name for name in "acb")))
    token = next(token for token in first if token in second)
    assert torch.allclose(got[token], ((first[token] + third[token]) / 2 + second[token]) / 2, atol=1e-6)
    assert torch.equal(got["<tool>"], second["<tool>"])
    runs(tmp_path / "out")


# Adapters


def test_adapters_are_numbered_as_their_base(folder: Path, tmp_path: Path) -> None:
    """A LoRA of the base's embedding changes the rows of the base's tokens, wherever they now stand."""
    rows = len(load_file(folder / "a" / "model.safetensors")[EMBEDDING])
    module = "model.embed_tokens"
    tensors = {
        f"base_model.model.{module}.lora_embedding_A": np.ones((2, rows), np.float32),
        f"base_model.model.{module}.lora_embedding_B": np.ones((HIDDEN, 2), np.float32),
    }
    tensors |= factors("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN)
    adapter = write_adapter(tmp_path / "lora", tensors)
    models = ["b", str(adapter)]
    more = {"base": str(folder / "a"), "method": "task_arithmetic"}
    out = merged(folder, tmp_path / "out", {"tokenizer": str(folder / "b")}, *models, **more)
    without = merged(folder, tmp_path / "without", {"tokenizer": str(folder / "b")}, "b", **more)
    ours, got, plain = (rows_of(each) for each in (folder / "a", out, without))
    for token, row in got.items():
        # A and B of ones at rank 2 and scale 2 add 2 * 2 to every element.
        assert torch.allclose(row, plain[token] + (4 if token in ours else 0), atol=1e-5)
    runs(out)


def test_adapters_with_rows_of_their_own(folder: Path, tmp_path: Path) -> None:
    """An embedding that an adapter resized, and rows it trained one by one, are refused with what to do."""
    grown = torch.zeros(400, HIDDEN)
    resized = write_adapter(
        tmp_path / "resized", {"base_model.model.model.embed_tokens.weight": grown}, modules_to_save=["embed_tokens"]
    )
    with pytest.raises(MismatchError, match="take the base this adapter was trained on, its embeddings resized"):
        merged(folder, tmp_path / "out", {"tokenizer": "union"}, "b", str(resized), base=str(folder / "a"))
    tensors = factors("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN)
    trained = write_adapter(tmp_path / "trained", tensors, trainable_token_indices=[1, 2])
    with pytest.raises(CheckpointError, match="replaces single rows of an embedding"):
        merged(folder, tmp_path / "out", {"tokenizer": "union"}, "b", str(trained), base=str(folder / "a"))


def test_a_model_with_an_adapter_has_the_models_tokens(folder: Path, tmp_path: Path) -> None:
    """Written `a+lora`, it is a model like others."""
    adapter = write_adapter(tmp_path / "lora", factors("model.layers.0.self_attn.q_proj", HIDDEN, HIDDEN))
    out = merged(folder, tmp_path / "out", {"tokenizer": "union"}, f"{folder / 'a'}+{adapter}", "b")
    plain = merged(folder, tmp_path / "plain", {"tokenizer": "union"}, "a", "b")
    got, want = rows_of(out), rows_of(plain)
    assert all(torch.equal(got[token], row) for token, row in want.items())
