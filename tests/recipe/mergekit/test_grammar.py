from typing import Any

import pytest

from eutectic.recipe.document import DocumentError, compose
from eutectic.recipe.mergekit.grammar import Document, Piece, Source, Token, read_document


def read(text: str) -> Document:
    """Reads one document."""
    (top,), errors = compose(text)
    assert errors == []
    return read_document(top)


BARE = "merge_method: linear\nmodels: [{model: a}]\n"


def test_models_are_one_slice_of_all_blocks() -> None:
    """`models` is a slice without a range, in one module without a name."""
    found = read("merge_method: x\nmodels:\n- model: a\n- {model: b, parameters: {w: 1}}\nbase_model: c\n")
    (module,) = found.modules
    assert (module.name, module.settings, found.base) == ("", {}, "c")
    (piece,) = module.pieces
    assert [(source.model, source.blocks, source.line) for source in piece.sources] == [("a", None, 3), ("b", None, 4)]
    assert piece.sources[1].settings["w"][0].values == (1,)


def test_slices_and_modules() -> None:
    """Slices keep their ranges, half-open, and their own base; modules their names."""
    found = read(
        "merge_method: x\nmodules:\n  text:\n    slices:\n    - sources: [{model: a, layer_range: [2, 5]}]\n"
        "      base_model: b\n      residual_weight: 0.5\n    parameters: {t: 1}\n  image: {models: [{model: c}]}\n"
    )
    text, image = found.modules
    assert text.pieces == (Piece((Source("a", (2, 5), {}, 5),), {}, "b", 5),)
    assert (text.settings["t"][0].values, image.name, image.pieces[0].sources[0].model) == ((1,), "image", "c")
    assert found.remarks == ((7, "residual_weight has no effect, in mergekit as here"),)


def test_unknown_keys_are_remarks() -> None:
    """With the nearest key, or what an old spelling meant."""
    found = read(BARE + "dtpye: float16\nnormalize: true\nembed_slerp: true\n")
    assert [line for line, _ in found.remarks] == [3, 4, 5]
    assert "did you mean 'dtype'" in found.remarks[0][1]
    assert "belongs under parameters" in found.remarks[1][1]
    assert "the embeddings are merged" in found.remarks[2][1]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("org/a@main", "org/a@main"),
        ("org/a+org/l@1", "org/a+org/l@1"),
        ("{model: org/a, lora: null}", "org/a"),
        ("{model: {path: org/a, revision: main}, lora: {path: l}}", "org/a@main+l"),
        ("123", "123"),
    ],
)
def test_references(written: str, expected: str) -> None:
    """As one text, or in parts."""
    found = read(f"merge_method: x\nmodels: [{{model: {written}}}]")
    assert found.modules[0].pieces[0].sources[0].model == expected


@pytest.mark.parametrize(
    "written", ["a+b+c", "a@1@2", "", "[a]", "{path: [a]}", "{model: a, override_architecture: X}"]
)
def test_references_that_are_none(written: str) -> None:
    """What mergekit cannot parse, and what says how to read names."""
    with pytest.raises(DocumentError) as caught:
        read(f"merge_method: x\nmodels: [{{model: {written or repr('')}}}]")
    assert caught.value.line == 2


def test_tokenizers() -> None:
    """A source alone; a block with tokens from a model, another token, or zeros; the prefix of an old version."""
    assert read(BARE + "tokenizer_source: union\n").tokenizer is not None
    found = read(BARE + "tokenizer_source: model:org/a\n")
    assert found.tokenizer is not None
    assert (found.tokenizer.source, len(found.remarks)) == ("org/a", 1)
    found = read(
        BARE + "tokenizer:\n  source: base\n  pad_to_multiple_of: 8\n  tokens:\n    x: {source: a}\n"
        "    y: {source: {kind: zero}, force: true}\n    z: {source: {kind: model_token, model: a, token_id: 3}}\n"
    )
    assert found.tokenizer is not None
    assert (found.tokenizer.source, found.tokenizer.multiple) == ("base", 8)
    assert found.tokenizer.tokens == {
        "x": Token("a", None, False, 7), "y": Token("zero", None, True, 8), "z": Token("a", 3, False, 9)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge_method: x\nmodels: []", "with an entry or more"),
        ("merge_method: x\nslices: [{sources: [{model: a}]}]", "layer_range"),
        ("merge_method: x\nslices: [{sources: [{model: a, layer_range: [3, 3]}]}]", "below the end"),
        ("merge_method: x\nslices: [{sources: [{model: a, layer_range: 3}]}]", "as .first, end."),
        ("merge_method: x\nslices: [{}]", "the key sources"),
        ("merge_method: x\nmodels: [a]", "a model as a mapping"),
        ("merge_method: x\nmodels: [{}]", "the key model"),
        ("merge_method: x\nmodules: {m: {}}", "models or slices"),
        ("merge_method: x\nmodules: [1]", "modules by name"),
        (BARE + "parameters: 3", "parameters as a mapping"),
        (BARE + "dtype: bf16", "expected one of bfloat16"),
        (BARE + "dtype: int64", "expected one of bfloat16"),
        (BARE + "tokenizer_source: base\ntokenizer: {}", "found both"),
        (BARE + "tokenizer: {pad_to_multiple_of: 0}", "from 1"),
        (BARE + "tokenizer: {tokens: [a]}", "tokens by text"),
        (BARE + "tokenizer: {tokens: {a: {source: {kind: other}}}}", "kind: zero"),
        (BARE + "tokenizer: {tokens: {a: {source: {kind: model_token, model: a}}}}", "token or token_id"),
        (BARE + "name: [x]", "expected text"),
        (BARE + "parameters: {<<: 3}", "after <<"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    """What mergekit refuses too."""
    with pytest.raises(DocumentError, match=says):
        read(text)


def test_keys_of_another_mapping_are_taken_in() -> None:
    """`<<` adds keys that are not written, of one mapping or several."""
    found = read(
        "merge_method: x\nmodels:\n- model: a\n  parameters: &p {w: 1, d: 2}\n"
        "- model: b\n  parameters: {<<: *p, w: 3}\n"
    )
    values: dict[str, Any] = {key: s[0].values for key, s in found.modules[0].pieces[0].sources[1].settings.items()}
    assert values == {"w": (3,), "d": (2,)}
