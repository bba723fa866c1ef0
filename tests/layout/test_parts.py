import pytest

from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.layout.parts import Parts, role_of
from eutectic.layout.roles import Role


def role(name: str, *modules: str, shape: tuple[int, ...] = (4, 4), dtype: str = "F32") -> Role:
    """Returns the role of a name in a header that also holds some modules."""
    return role_of(Parts(TensorSpec(name, shape, DTYPES[dtype]), set(modules).__contains__))


def test_names_are_taken_apart() -> None:
    """Leaf, context and parent of a name, numbers aside."""
    parts = Parts(TensorSpec("A.layers.0.Attn.in_proj_weight", (4, 4), DTYPES["F32"]), set[str]().__contains__)
    assert parts.leaf == "in_proj"
    assert parts.context == ("a", "layers", "attn")
    assert parts.parent == "A.layers.0.Attn"
    assert parts.attention


@pytest.mark.parametrize(
    ("sibling", "expected"), [("m.mlp.experts", Role.ROUTER), ("m.mlp.other", Role.GATE)], ids=["experts", "dense"]
)
def test_a_gate_beside_experts_routes(sibling: str, expected: Role) -> None:
    """The same word is a router where there are experts and a gate where there are none."""
    assert role("m.mlp.gate.weight", sibling) is expected


def test_w1_depends_on_its_siblings() -> None:
    """Of w1, w2, w3 the first is the gate; of w1, w2 it leads up."""
    assert role("m.feed_forward.w1.weight", "m.feed_forward.w3") is Role.GATE
    assert role("m.feed_forward.w1.weight") is Role.UP


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "expected"),
    [
        ("attn.dense.weight", (4, 4), "F32", Role.ATTENTION_OUTPUT),
        ("output.dense.weight", (4, 4), "F32", Role.DOWN),
        ("post_attention_layernorm.weight", (4,), "F32", Role.NORM),
        ("attention.output.LayerNorm.bias", (4,), "F32", Role.NORM),
        ("attn.q_norm.weight", (4,), "F32", Role.ATTENTION_NORM),
        ("embeddings.position_ids", (1, 4), "I64", Role.BUFFER),
        ("rotary_emb.inv_freq", (4,), "F32", Role.BUFFER),
        ("bn1.running_mean", (4,), "F32", Role.BUFFER),
        ("layer1.0.conv1.weight", (4, 4, 3, 3), "F32", Role.CONV),
        ("stem.weight", (4, 4, 3, 3), "F32", Role.CONV),
        ("layer_scale1.lambda1", (4,), "F32", Role.SCALE),
        ("mlp.experts.gate_up_proj_bias", (4, 4), "F32", Role.EXPERT_GATE_UP),
        ("classifier.out_proj.weight", (4, 4), "F32", Role.HEAD_TASK),
        ("something", (4,), "F32", Role.OTHER),
    ],
)
def test_words(name: str, shape: tuple[int, ...], dtype: str, expected: Role) -> None:
    """Words mean what their context makes of them."""
    assert role(name, shape=shape, dtype=dtype) is expected
