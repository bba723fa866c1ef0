"""Chat templates from folders and by name."""

import json
from pathlib import Path

import pytest
from jinja2 import Environment

from eutectic.errors import CheckpointError
from eutectic.tokens.templates import TEMPLATES, is_template, most_common, read_template

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
]
#: As the authors of each format write it.
WRITTEN = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "alpaca": "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n"
    "[|assistant|]",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_known_formats(name: str) -> None:
    """Each renders a conversation as the format's authors write it, and one without a system message."""
    template = Environment(autoescape=False).from_string(TEMPLATES[name])
    marks = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
    assert template.render(messages=TALK, **marks) == WRITTEN[name]
    assert "Be brief" not in template.render(messages=TALK[1:], **marks)
    assert is_template(TEMPLATES[name])
    assert not is_template(name)


def test_where_folders_keep_them(tmp_path: Path) -> None:
    """A file of its own, before a processor's, before tokenizer_config.json's, one or several."""
    assert read_template(None) is None
    assert read_template(tmp_path) is None
    several = [{"name": "tool", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert read_template(tmp_path) == "D"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "C"}))
    assert read_template(tmp_path) == "C"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "P"}))
    assert read_template(tmp_path) == "P"
    (tmp_path / "chat_template.jinja").write_text("J")
    assert read_template(tmp_path) == "J"


@pytest.mark.parametrize("text", ["{", "[]", '{"chat_template": [1]}'])
def test_broken_files(tmp_path: Path, text: str) -> None:
    """A broken file is named."""
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(CheckpointError, match="tokenizer_config"):
        read_template(tmp_path)


def test_the_most_common() -> None:
    """What most have; the first of equals; None when nobody has one."""
    assert most_common([None, "a", "b", "b"]) == "b"
    assert most_common(["a", "b", None]) == "a"
    assert most_common([None]) is None
