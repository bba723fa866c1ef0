import pytest

from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.layout.packed import code_sentence, packed


def spec(name: str, dtype: str) -> TensorSpec:
    """Returns a small tensor's spec."""
    return TensorSpec(name, (4, 4), DTYPES[dtype])


@pytest.mark.parametrize(
    ("codes", "dtype", "scales"),
    [
        ("q_proj.weight", "F8_E4M3", ("q_proj.weight_scale_inv",)),  # DeepSeek
        ("q_proj.weight", "F8_E4M3", ("q_proj.weight_scale", "q_proj.input_scale")),  # compressed-tensors
        ("q_proj.weight_packed", "I32", ("q_proj.weight_scale", "q_proj.weight_shape")),
        ("q_proj.weight", "U8", ("q_proj.weight_scale", "q_proj.weight_scale_2")),  # NVFP4
        ("q_proj.qweight", "I32", ("q_proj.qzeros", "q_proj.scales", "q_proj.g_idx")),  # GPTQ, AWQ
        ("q_proj.weight", "U8", ("q_proj.weight.absmax", "q_proj.weight.quant_state.bitsandbytes__nf4")),
        ("q_proj.weight", "I8", ("q_proj.SCB",)),
        ("mlp.experts.gate_up_proj_blocks", "U8", ("mlp.experts.gate_up_proj_scales",)),  # MXFP4
    ],
)
def test_codes_and_their_scales(codes: str, dtype: str, scales: tuple[str, ...]) -> None:
    """Every quantiser's codes are found with what it stores beside them."""
    header = {name: spec(name, "F32") for name in scales} | {codes: spec(codes, dtype), "norm.weight": spec("n", "F32")}
    assert packed(header) == {codes: scales}


def test_bare_codes_and_plain_integers() -> None:
    """fp8 without scales is codes all the same; integers without scales, and floats beside a scale, are not."""
    names = {
        "w.weight": "F8_E5M2",
        "position_ids": "I64",
        "logit_scale": "F32",
        "v.weight": "F32",
        "v.weight_scale": "F32",
    }
    assert packed({name: spec(name, dtype) for name, dtype in names.items()}) == {"w.weight": ()}


def test_sentences_name_type_and_scale() -> None:
    """The message says what the numbers are and what to do."""
    assert "F8_E4M3 codes, scaled by w.scale; dequantise" in code_sentence(spec("w", "F8_E4M3"), ("w.scale",))
    assert "unquantised" in code_sentence(spec("w", "F4"), ())
