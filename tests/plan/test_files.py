"""The files beside an output's weights: the tokenizer that is chosen, and the chat template."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import eutectic
from eutectic.checkpoint.sidecars import RECIPE
from eutectic.errors import RecipeError
from eutectic.tokens.templates import TEMPLATES
from tests.make.vocabularies import ENGLISH, SEA, byte_level, read_json, write_llama

OURS, THEIRS = "{{ messages[0]['content'] }}!", "{{ messages[0]['content'] }}?"
TALK = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, of which two have one template; and one with another vocabulary."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = byte_level(ENGLISH, ["<s>", "</s>"])
    for seed, (name, template) in enumerate([("a", OURS), ("b", THEIRS), ("c", THEIRS), ("plain", None)]):
        write_llama(root / name, tokenizer, seed, template=template)
    write_llama(root / "other", byte_level(SEA, ["<s>", "<tool>"]), 9, template=THEIRS)
    return root


def merged(folder: Path, out: Path, output: dict[str, Any], *names: str, **more: Any) -> Path:
    """Averages models."""
    models = [{"model": str(folder / name), "name": name} for name in names]
    recipe = {"models": models, "method": "linear", "output": output} | more
    eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out)
    return out


def said(out: Path) -> Any:
    """What a conversation becomes."""
    return AutoTokenizer.from_pretrained(out).apply_chat_template(TALK, tokenize=False)


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (None, "Hi!"),
        ("auto", "Hi?"),
        ("b", "Hi?"),
        ("a", "Hi!"),
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n"),
        ("{% for m in messages %}\n{{ m['content'] }}.{% endfor %}", "Hi."),
    ],
)
def test_chat_templates(folder: Path, tmp_path: Path, chosen: str | None, text: str) -> None:
    """The tokenizer's own, what most models have, a model's, a known format, Jinja text."""
    output = {} if chosen is None else {"chat_template": chosen}
    out = merged(folder, tmp_path / "out", output, "a", "b", "c")
    assert said(out) == text
    if chosen == "chatml":
        assert (out / "chat_template.jinja").read_text() == TEMPLATES["chatml"]
    again = eutectic.read(out / RECIPE).output.chat_template
    assert again == chosen


def test_a_template_for_a_new_tokenizer(folder: Path, tmp_path: Path) -> None:
    """The template is chosen apart from the tokens."""
    out = merged(folder, tmp_path / "out", {"chat_template": "other"}, "a", "other", vocabulary={"tokenizer": "union"})
    assert said(out) == "Hi?"
    assert "<tool>" in AutoTokenizer.from_pretrained(out).get_vocab()


def test_an_older_config_keeps_no_other_template(folder: Path, tmp_path: Path) -> None:
    """tokenizer_config.json's own template would win in some versions: it goes."""
    old = tmp_path / "old"
    write_llama(old, byte_level(ENGLISH, ["<s>", "</s>"]), 3)
    config = read_json(old / "tokenizer_config.json") | {"chat_template": OURS}
    (old / "tokenizer_config.json").write_text(json.dumps(config))
    out = merged(folder, tmp_path / "out", {"chat_template": "b"}, str(old), "b")
    assert "chat_template" not in read_json(out / "tokenizer_config.json")
    assert said(out) == "Hi?"


@pytest.mark.parametrize(
    ("chosen", "text"), [("chatlm", "did you mean 'chatml'"), ("plain", "plain has no chat template")]
)
def test_no_such_template(folder: Path, chosen: str, text: str) -> None:
    """An unknown name suggests the nearest; a model without a template is named."""
    models = [{"model": str(folder / name), "name": name} for name in ("a", "plain")]
    with pytest.raises(RecipeError, match=text):
        eutectic.plan({"models": models, "method": "linear", "output": {"chat_template": chosen}}, memory="1 GiB")


def test_a_tokenizer_that_is_copied(folder: Path, tmp_path: Path) -> None:
    """`output.tokenizer` copies a model's files; a word that is no model is refused."""
    out = merged(folder, tmp_path / "out", {"tokenizer": "b"}, "a", "b")
    assert (out / "tokenizer.json").read_bytes() == (folder / "b" / "tokenizer.json").read_bytes()
    assert said(out) == "Hi?"
