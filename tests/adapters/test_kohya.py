from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eutectic
from eutectic.adapters.kohya import is_kohya, read_kohya
from eutectic.adapters.lora import against, fold, open_adapter
from eutectic.checkpoint.open import is_adapter_file
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.errors import CheckpointError, MismatchError
from tests.make.adapters import read, write_base
from tests.make.checkpoints import write_file

Tensors = dict[str, np.ndarray[Any, Any]]
BASE = {
    "down_blocks.0.attn.to_q.weight": np.ones((6, 5), np.float32),
    "down_blocks.0.conv_in.weight": np.ones((4, 3, 3, 3), np.float32),
    "mid_block.to_q.weight": np.ones((6, 5), np.float32),
}


def pair(name: str, up: tuple[int, ...], down: tuple[int, ...], alpha: float | None = None) -> Tensors:
    """Returns the tensors of one module, with random factors."""
    draw = np.random.default_rng(len(name))
    found = {
        f"{name}.lora_up.weight": draw.standard_normal(up).astype(np.float32),
        f"{name}.lora_down.weight": draw.standard_normal(down).astype(np.float32),
    }
    return found if alpha is None else found | {f"{name}.alpha": np.array(alpha, np.float32)}


def plain() -> Tensors:
    """Returns a linear layer of scale 1/2, and a convolution without an alpha."""
    linear = pair("lora_unet_down_blocks_0_attn_to_q", (6, 2), (2, 5), 1.0)
    return linear | pair("lora_unet_down_blocks_0_conv_in", (4, 2, 1, 1), (2, 3, 3, 3))


def test_updates_are_scaled_by_alpha_over_rank(tmp_path: Path) -> None:
    """Names become the base's; without an alpha the scale is 1; a convolution's kernel belongs to A."""
    base, tensors = write_base(tmp_path / "base", BASE), plain()
    file = write_file(tmp_path / "style.safetensors", tensors)
    assert is_adapter_file(file)
    assert not is_adapter_file(tmp_path / "base" / "model.safetensors")
    source = against(base, file).source
    linear, conv = "down_blocks.0.attn.to_q.weight", "down_blocks.0.conv_in.weight"
    assert set(source.header) == {linear, conv}
    up, down = (tensors[f"lora_unet_down_blocks_0_attn_to_q.lora_{part}.weight"] for part in ("up", "down"))
    assert np.allclose(read(source, linear), up @ down / 2, atol=1e-6)
    up, down = (tensors[f"lora_unet_down_blocks_0_conv_in.lora_{part}.weight"] for part in ("up", "down"))
    expected = np.einsum("or,rikl->oikl", up[:, :, 0, 0], down)
    assert np.allclose(read(source, conv), expected, atol=1e-6)
    assert np.allclose(read(fold(base, file).source, conv), 1 + expected, atol=1e-6)


def test_a_file_becomes_a_peft_folder(tmp_path: Path) -> None:
    """Merging one with its base known writes PEFT's names."""
    write_base(tmp_path / "base", BASE)
    file = write_file(tmp_path / "style.safetensors", plain())
    recipe = eutectic.merge_adapters([file], base=tmp_path / "base")
    eutectic.run(eutectic.plan(recipe), tmp_path / "out")
    header = SafetensorsFile(tmp_path / "out" / "adapter_model.safetensors").header
    assert header["base_model.model.down_blocks.0.conv_in.lora_A.weight"].shape == (2, 3, 3, 3)
    assert header["base_model.model.down_blocks.0.conv_in.lora_B.weight"].shape == (4, 2, 1, 1)
    before = against(_base(tmp_path), file).source
    after = against(_base(tmp_path), tmp_path / "out").source
    for name in before.header:
        assert np.allclose(read(before, name), read(after, name), atol=1e-6)


def _base(tmp_path: Path) -> Any:
    return eutectic.open(tmp_path / "base")


def test_names_may_have_more_before_them(tmp_path: Path) -> None:
    """`to_q` alone is the end of two names; `mid_block_to_q` of one."""
    file = SafetensorsFile(write_file(tmp_path / "a.safetensors", pair("lora_te1_mid_block_to_q", (6, 2), (2, 5))))
    assert is_kohya(file.header)
    names, config = read_kohya(file, [f"model.{name}" for name in BASE])
    assert set(names.modules) == {"model.mid_block.to_q"}
    assert (config.rank_of("model.mid_block.to_q"), config.scale_of("model.mid_block.to_q")) == (2, 1.0)


BROKEN: dict[str, tuple[Tensors, type[Exception], str]] = {
    "half a pair": (
        {"lora_unet_mid_block_to_q.lora_up.weight": np.ones((6, 2), np.float32)},
        CheckpointError,
        "no lora_down",
    ),
    "alpha alone": ({"lora_unet_mid_block_to_q.alpha": np.ones((), np.float32)}, CheckpointError, "no lora_down"),
    "another base": (pair("lora_unet_up_blocks_9_to_q", (6, 2), (2, 5)), MismatchError, "no module"),
    "two places": (pair("lora_unet_to_q", (6, 2), (2, 5)), MismatchError, "any of"),
    "another shape": (pair("lora_unet_mid_block_to_q", (7, 2), (2, 5)), MismatchError, "expected shape"),
    "ranks differ": (pair("lora_unet_mid_block_to_q", (6, 3), (2, 5)), CheckpointError, "rank"),
    "two alphas": (
        pair("lora_unet_mid_block_to_q", (6, 2), (2, 5)) | {"lora_unet_mid_block_to_q.alpha": np.ones(2, np.float32)},
        CheckpointError,
        "one number",
    ),
    "alpha NaN": (pair("lora_unet_mid_block_to_q", (6, 2), (2, 5), np.nan), CheckpointError, "finite"),
    "LoHa": (
        {"lora_unet_mid_block_to_q.hada_w1_a": np.ones((6, 2), np.float32)},
        CheckpointError,
        "adapter_config|Hadamard",
    ),
    "LoHa with alpha": (
        {
            "lora_unet_mid_block_to_q.hada_w1_a": np.ones((6, 2), np.float32),
            "lora_unet_mid_block_to_q.alpha": np.ones((), np.float32),
        },
        CheckpointError,
        "Hadamard",
    ),
    "DoRA": (
        pair("lora_unet_mid_block_to_q", (6, 2), (2, 5))
        | {"lora_unet_mid_block_to_q.dora_scale": np.ones((6, 1), np.float32)},
        CheckpointError,
        "DoRA",
    ),
    "two schemes": (
        pair("lora_unet_mid_block_to_q", (6, 2), (2, 5))
        | {"base_model.model.mid_block.to_q.lora_A.weight": np.ones((2, 5), np.float32)},
        CheckpointError,
        "two ways",
    ),
    "PEFT's names without a configuration": (
        {"base_model.model.mid_block.to_q.lora_A.weight": np.ones((2, 5), np.float32)},
        CheckpointError,
        "adapter_config",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(case: str, tmp_path: Path) -> None:
    """Each with its reason, file and module."""
    tensors, kind, said = BROKEN[case]
    file = write_file(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(kind, match=said) as refused:
        against(write_base(tmp_path / "base", BASE), file)
    assert "bad.safetensors" in str(refused.value)


def test_without_a_base_names_stay_unknown(tmp_path: Path) -> None:
    """The message asks for the base."""
    file = write_file(tmp_path / "style.safetensors", plain())
    with pytest.raises(CheckpointError, match="give the base too"):
        open_adapter(file)
