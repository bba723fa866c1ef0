import pytest

from eutectic.layout.roles import Role
from eutectic.layout.stacked import stacked


@pytest.mark.parametrize(
    ("name", "role", "shape", "expected"),
    [
        ("h.0.attn.c_attn.weight", Role.QKV, (16, 48), 3),  # GPT-2 keeps (d_in, d_out)
        ("h.0.attn.c_attn.bias", Role.QKV, (48,), 3),
        ("visual.attn.in_proj_weight", Role.QKV, (48, 16), 3),
        ("layers.0.attn.Wqkv.weight", Role.QKV, (48, 16), 3),
        ("layers.0.self_attn.qkv_proj.weight", Role.QKV, (32, 16), 1),  # heads share keys
        ("h.0.query_key_value.weight", Role.QKV, (48, 16), 1),  # head by head
        ("layers.0.attention.wqkv.weight", Role.QKV, (48, 16), 1),
        ("layers.0.mlp.gate_up_proj.weight", Role.GATE_UP, (48, 16), 2),
        ("layers.0.mlp.gate_up_proj.weight", Role.GATE_UP, (47, 16), 1),
        ("layers.0.experts.gate_up_proj", Role.EXPERT_GATE_UP, (4, 48, 16), 1),
        ("layers.0.self_attn.q_proj.weight", Role.QUERY, (48, 16), 1),
    ],
)
def test_how_many(name: str, role: Role, shape: tuple[int, ...], expected: int) -> None:
    """Thirds and halves, where names and sizes say so."""
    assert stacked(name, role, shape) == expected
