import json
from pathlib import Path

import pytest

from eutectic.checkpoint.config_changes import ConfigChanges
from eutectic.checkpoint.sidecars import Sidecar, plan_sidecars, write_sidecars
from eutectic.errors import CheckpointError, OutputError


def folder(path: Path, *names: str, **texts: str) -> Path:
    """Writes a model folder: empty files of these names, and texts under names with `__` for the dot."""
    for name, text in [*((name, name) for name in names), *((n.replace("__", "."), t) for n, t in texts.items())]:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    return path


def written(sidecars: tuple[Sidecar, ...]) -> set[str]:
    """Returns the names of those that are written."""
    return {sidecar.name for sidecar in sidecars if not sidecar.left_out}


def test_a_complete_folder(tmp_path: Path) -> None:
    """All that loading needs is taken; weights, adapters, caches and other people's repository files are not."""
    wanted = {
        "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
        "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "added_tokens.json", "chat_template.jinja",
        "chat_template.json", "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
        "additional_chat_templates/tool.jinja",
    }  # fmt: skip
    unwanted = {
        "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "adapter_config.json",
        "adapter_model.safetensors", "README.md", "optimizer.pt", "onnx/tokenizer.json", "checkpoint-5/config.json",
        ".git/config", "modeling_custom.py",
    }  # fmt: skip
    home = folder(tmp_path / "a", *wanted, *unwanted, config__json="{}")
    sidecars = plan_sidecars(home)
    assert written(sidecars) == wanted | {"config.json"}
    left = {sidecar.name: sidecar.why for sidecar in sidecars if sidecar.left_out}
    assert set(left) == {"modeling_custom.py", "adapter_config.json", "adapter_model.safetensors"}
    assert "not copied" in left["modeling_custom.py"]


def test_config_is_rewritten(tmp_path: Path) -> None:
    """config.json is the donor's, in its order, with what the output changes; what changed is said."""
    config = {"_name_or_path": "x", "num_hidden_layers": 2, "architectures": ["M"], "torch_dtype": "float32", "é": 1}
    home = folder(tmp_path / "a", config__json=json.dumps(config))
    (sidecar,) = plan_sidecars(home, config_changes=ConfigChanges("bfloat16", {"model.layers": [0, 1, 1]}))
    out = tmp_path / "out"
    assert write_sidecars(out, [sidecar]) == (out / "config.json",)
    text = (out / "config.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "num_hidden_layers": 3,\n  "architectures"')
    assert json.loads(text) == {"num_hidden_layers": 3, "architectures": ["M"], "torch_dtype": "bfloat16", "é": 1}
    assert "with dtype bfloat16, num_hidden_layers 3" in sidecar.why


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    """Tokenizer and chat template come from one folder, all else from the other."""
    home = folder(tmp_path / "a", "tokenizer.json", "vocab.json", "generation_config.json", config__json="{}")
    words = folder(tmp_path / "b", "tokenizer.json", "chat_template.jinja", "generation_config.json")
    sidecars = plan_sidecars(home, words)
    sources = {sidecar.name: sidecar.source for sidecar in sidecars}
    assert sources == {
        "config.json": None,
        "generation_config.json": home / "generation_config.json",
        "tokenizer.json": words / "tokenizer.json",
        "chat_template.jinja": words / "chat_template.jinja",
    }


def test_sentence_transformers_modules(tmp_path: Path) -> None:
    """The folders that modules.json names come along; weights in them are named as left out."""
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    home = folder(
        tmp_path / "a",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/model.safetensors",
        "3_Other/config.json",
        modules__json=json.dumps(modules),
    )
    sidecars = plan_sidecars(home)
    assert {name for name in written(sidecars) if "/" in name} == {"1_Pooling/config.json", "2_Dense/config.json"}
    assert [sidecar.name for sidecar in sidecars if sidecar.left_out] == ["2_Dense/model.safetensors"]
    assert {"modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"} <= written(sidecars)


@pytest.mark.parametrize("path", ["../secret", "/etc", "a/../../b"])
def test_modules_outside_the_folder(tmp_path: Path, path: str) -> None:
    """A modules.json that points out of its folder is refused."""
    home = folder(tmp_path / "a", modules__json=json.dumps([{"path": path}]))
    with pytest.raises(CheckpointError, match="inside the folder"):
        plan_sidecars(home)


def test_links_become_files(tmp_path: Path) -> None:
    """A hub cache holds links to blobs; the output holds their content. A link to nothing is refused."""
    blob = folder(tmp_path / "blobs", "abc") / "abc"
    home = folder(tmp_path / "a", config__json="{}")
    (home / "tokenizer.json").symlink_to(blob)
    out = tmp_path / "out"
    write_sidecars(out, plan_sidecars(home))
    assert not (out / "tokenizer.json").is_symlink()
    assert (out / "tokenizer.json").read_text() == "abc"
    blob.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: expected a file, found a link to nothing"):
        plan_sidecars(home)


def test_licences_of_all_parents(tmp_path: Path) -> None:
    """Each parent's licence files are kept under its name."""
    a = folder(tmp_path / "a", "LICENSE", "NOTICE.txt", "docs/LICENSE")
    b = folder(tmp_path / "b", "LICENSE.md")
    sidecars = plan_sidecars(None, parents={"org/a@1": a, "../b": b})
    assert written(sidecars) == {
        "licenses/org--a@1/LICENSE",
        "licenses/org--a@1/NOTICE.txt",
        "licenses/b/LICENSE.md",
    }
    write_sidecars(tmp_path / "out", sidecars)
    assert (tmp_path / "out/licenses/b/LICENSE.md").read_text() == "LICENSE.md"


def test_a_bare_file_has_no_sidecars() -> None:
    """A donor without a folder lends nothing."""
    assert plan_sidecars(None) == ()


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000])
def test_broken_config(tmp_path: Path, text: str) -> None:
    """A config that cannot be read is refused with its path."""
    home = folder(tmp_path / "a", config__json=text)
    with pytest.raises(CheckpointError, match=r"config\.json: expected"):
        plan_sidecars(home)


def test_writing_fails_with_our_errors(tmp_path: Path) -> None:
    """No room for a file, a source that is gone, a name that leaves the folder."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_sidecars(tmp_path / "out", [Sidecar("a", "", b"")])
    with pytest.raises(CheckpointError, match="restore it"):
        write_sidecars(tmp_path / "fine", [Sidecar("a", "", source=tmp_path / "gone")])
    with pytest.raises(CheckpointError, match="inside the folder"):
        write_sidecars(tmp_path / "fine", [Sidecar("../a", "", b"")])
    with pytest.raises(CheckpointError, match="expected a model folder"):
        plan_sidecars(tmp_path / "nowhere")
