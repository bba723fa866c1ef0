from typing import Any

import pytest

from eutectic.checkpoint.config_changes import ConfigChanges, changed_config
from eutectic.errors import CheckpointError, MismatchError


def changed(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Returns the config with the changes."""
    return changed_config(config, ConfigChanges(**changes), "config.json")[0]


def test_nothing_asked_nothing_changed() -> None:
    """Without changes only the path the donor was loaded from goes, also from nested configs; the input stays whole."""
    config = {"_name_or_path": "x", "architectures": ["A"], "text_config": {"_name_or_path": "y", "n": 1}}
    assert changed(config) == {"architectures": ["A"], "text_config": {"n": 1}}
    assert "_name_or_path" in config


def test_element_type() -> None:
    """The type is set under the key in use, everywhere it is used; under the older key when there is none."""
    assert changed({"dtype": "float32"}, dtype="bfloat16") == {"dtype": "bfloat16"}
    nested = changed({"torch_dtype": "a", "vision_config": {"torch_dtype": "b"}}, dtype="float16")
    assert nested == {"torch_dtype": "float16", "vision_config": {"torch_dtype": "float16"}}
    assert changed({}, dtype="float32") == {"torch_dtype": "float32"}


def test_blocks_and_lists_by_block() -> None:
    """The number of blocks, lists with an entry a block and lists of block numbers follow the new order."""
    config = {
        "num_hidden_layers": 3,
        "layer_types": ["full", "slide", "linear"],
        "mlp_only_layers": [1],
        "eos_token_id": [1, 2, 3],
        "num_attention_heads": 4,
    }
    assert changed(config, blocks={"model.layers": [0, 1, 1, 2]}) == {
        "num_hidden_layers": 4,
        "layer_types": ["full", "slide", "slide", "linear"],
        "mlp_only_layers": [1, 2],
        "eos_token_id": [1, 2, 3],
        "num_attention_heads": 4,
    }


@pytest.mark.parametrize(
    ("config", "stack", "expected"),
    [
        ({"n_layer": 3}, "transformer.h", {"n_layer": 2}),
        (
            {"num_hidden_layers": 12, "num_hidden_groups": 3},
            "albert.encoder.albert_layer_groups",
            {"num_hidden_layers": 12, "num_hidden_groups": 2},
        ),
        ({"num_hidden_layers": 3}, "bert.encoder.layer", {"num_hidden_layers": 2}),
        ({"num_hidden_layers": 3}, "model.decoder.layers", {"num_hidden_layers": 2}),
        ({"num_layers": 3, "num_decoder_layers": 3}, "encoder.block", {"num_layers": 2, "num_decoder_layers": 3}),
        ({"num_layers": 3, "num_decoder_layers": 3}, "decoder.block", {"num_layers": 3, "num_decoder_layers": 2}),
        (
            {"encoder_layers": 3, "decoder_layers": 3, "num_hidden_layers": 3},
            "model.decoder.layers",
            {"encoder_layers": 3, "decoder_layers": 2, "num_hidden_layers": 3},
        ),
        (
            {"encoder_layers": 3, "decoder_layers": 4, "num_hidden_layers": 3},
            "model.encoder.layers",
            {"encoder_layers": 2, "decoder_layers": 4, "num_hidden_layers": 2},
        ),
        (
            {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 4}},
            "vision_model.encoder.layers",
            {"text_config": {"num_hidden_layers": 3}, "vision_config": {"num_hidden_layers": 2}},
        ),
        (
            {"num_hidden_layers": 3, "vision_config": {"depth": 4}},
            "model.layers",
            {"num_hidden_layers": 2, "vision_config": {"depth": 4}},
        ),
    ],
)
def test_each_stack_has_its_key(config: dict[str, Any], stack: str, expected: dict[str, Any]) -> None:
    """The number of blocks is found where each family keeps it."""
    assert changed(config, blocks={stack: [0, 1]}) == expected


def test_blocks_of_a_deeper_model() -> None:
    """Where all blocks are alike, a block the donor does not have is one more block."""
    assert changed({"n_layer": 2}, blocks={"h": [0, 1, 7]}) == {"n_layer": 3}


def test_dense_and_prediction_layers() -> None:
    """DeepSeek counts dense blocks in front and prediction layers behind; an order it cannot say is refused."""
    config = {"num_hidden_layers": 4, "num_nextn_predict_layers": 1, "first_k_dense_replace": 2}
    expected = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1}
    assert changed(config, blocks={"model.layers": [0, 2, 3, 4]}) == expected
    assert changed(config, blocks={"model.layers": [0, 1, 2]})["num_nextn_predict_layers"] == 0
    with pytest.raises(MismatchError, match="dense blocks before"):
        changed(config, blocks={"model.layers": [2, 0]})
    with pytest.raises(MismatchError, match="behind all others"):
        changed(config, blocks={"model.layers": [4, 0]})


def test_vocabulary_and_quantisation() -> None:
    """Rows are counted where the config counts them; the quantisation goes only with the codes."""
    assert changed({"text_config": {"vocab_size": 3}}, vocab_size=5) == {"text_config": {"vocab_size": 5}}
    quantised = {"quantization_config": {"quant_method": "fp8"}}
    assert changed(quantised) == quantised
    assert changed(quantised, dequantised=True) == {}


def test_said() -> None:
    """What was changed is said in words."""
    said = changed_config({"n_layer": 1}, ConfigChanges("float16", {"h": [0, 0]}, 9), "config.json")[1]
    assert said == ("dtype float16", "n_layer 2", "vocab_size 9")


def test_refusals() -> None:
    """A config that is no object, or counts no blocks, is refused with its path."""
    with pytest.raises(CheckpointError, match=r"x/config\.json: expected a JSON object, found list"):
        changed_config([], ConfigChanges(), "x/config.json")
    with pytest.raises(MismatchError, match="layer_types has 2 blocks, found block 2"):
        changed({"n_layer": 2, "layer_types": ["a", "b"]}, blocks={"h": [0, 2]})
    with pytest.raises(MismatchError, match=r"number of blocks for model\.layers"):
        changed({}, blocks={"model.layers": [0]})
