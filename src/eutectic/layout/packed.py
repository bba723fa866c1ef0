"""Tensors whose stored numbers are codes: quantised weights, and the scales that give them meaning."""

import re
from collections.abc import Mapping

from eutectic.checkpoint.spec import TensorSpec

#: Names of what quantisers store beside a module's codes, after the module's name.
_SCALES = re.compile(
    r"(?P<module>.+?)"
    r"(?:[._](?:weight_)?(?:scale_inv|scale|scale_2|scales|global_scale|zero_point|shape|g_idx)"
    r"|\.(?:input_scale|output_scale|k_scale|v_scale|activation_scale|input_amax)"
    r"|\.(?:qzeros|g_idx|SCB|weight_format)"
    r"|\.weight\.(?:absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format|quant_state\..+))"
)
#: Names of the codes themselves; `weight` when its type is no plain float.
_CODES = re.compile(r"(?P<module>.+?)(?:\.(?:qweight|weight_packed|weight)|[._]blocks|)")


def packed(header: Mapping[str, TensorSpec]) -> dict[str, tuple[str, ...]]:
    """Returns the scales of each tensor of codes, by the name of the codes; () when the file holds none.

    Codes are the types that mean nothing by themselves (fp8 and smaller), and integers that have scales beside them.
    """
    if all(spec.dtype.kind == "float" for spec in header.values()):
        return {}
    scales: dict[str, list[str]] = {}
    for name in header:
        found = _SCALES.fullmatch(name)
        if found:
            scales.setdefault(found["module"], []).append(name)
    codes: dict[str, tuple[str, ...]] = {}
    for name, spec in header.items():
        if spec.dtype.kind == "float" or _SCALES.fullmatch(name):
            continue
        found = _CODES.fullmatch(name)
        beside = tuple(scales.get(found["module"], ())) if found else ()
        if beside or spec.dtype.kind == "code":
            codes[name] = beside
    return codes


def code_sentence(spec: TensorSpec, scales: tuple[str, ...]) -> str:
    """Says why a tensor of codes cannot be merged, and what to do."""
    if scales:
        return f"{spec.name} holds {spec.dtype} codes, scaled by {scales[0]}; dequantise the model first"
    return f"{spec.name} holds {spec.dtype} codes and its file no scales for them; use the model's unquantised weights"
