import pytest
from hypothesis import given
from hypothesis import strategies as st

from eutectic.adapters.names import Module, Resolver, read_names
from eutectic.errors import CheckpointError

P = "base_model.model."


def test_kinds_of_keys() -> None:
    """Factors, embeddings, trained biases, magnitudes and full tensors are told apart."""
    keys = ["q.lora_A.weight", "q.lora_B.weight", "q.lora_B.bias", "q.lora_magnitude_vector", "q.base_layer.bias"]
    keys += ["e.lora_embedding_A", "e.lora_embedding_B", "e.base_layer.weight", "head.weight"]
    names = read_names([P + key for key in keys], "file")
    q = Module("q", P + keys[0], P + keys[1], bias=P + keys[2], magnitude=P + keys[3])
    assert names.modules == {"q": q, "e": Module("e", P + keys[5], P + keys[6], embedding=True)}
    assert names.full == {"q.bias": P + keys[4], "e.weight": P + keys[7], "head.weight": P + keys[8]}


def test_live_names() -> None:
    """Keys that still carry the adapter's name, and no prefix, are read too."""
    keys = ["q.lora_A.default.weight", "q.lora_B.default.weight", "q.lora_magnitude_vector.default.weight"]
    names = read_names([*keys, "head.modules_to_save.default.weight"], "file")
    assert names.modules == {"q": Module("q", keys[0], keys[1], magnitude=keys[2])}
    assert names.full == {"head.weight": "head.modules_to_save.default.weight"}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["q.lora_A.weight"], "no lora_B"),
        (["q.lora_embedding_B"], "no lora_A"),
        (["q.lora_magnitude_vector"], "no lora_A"),
        (["q.lora_A.weight", "q.lora_B.weight", "q.lora_embedding_A"], "of a layer and of an embedding"),
        (["q.lora_A.one.weight", "q.lora_B.two.weight"], "two ways of naming"),
        (["q.lora_A.weight", "q.lora_B.default.weight"], "two ways of naming"),
        ([P + "q.lora_A.weight", "q.lora_B.weight"], "two ways of naming"),
        (["q.lora_A.weight", "q.lora_A.bias"], "not one that PEFT's LoRA stores"),
        (["q.hada_w1_a"], "not one that PEFT's LoRA stores"),
        (["e.token_adapter.trainable_tokens_delta"], "not one that PEFT's LoRA stores"),
        (["x.weight", "x.base_layer.weight"], "stand for the same thing"),
    ],
)
def test_refused_keys(keys: list[str], message: str) -> None:
    """What cannot be paired or understood is refused."""
    with pytest.raises(CheckpointError, match=message):
        read_names(keys, "file")


@given(st.lists(st.text(st.sampled_from("ab.l_oraABwegiht"), max_size=30), max_size=6, unique=True))
def test_any_keys_end_in_names_or_our_error(keys: list[str]) -> None:
    """Every key ends up in exactly one place, or the file is refused."""
    try:
        names = read_names(keys, "file")
    except CheckpointError:
        return
    parts = [part for m in names.modules.values() for part in (m.a, m.b, m.bias, m.magnitude) if part is not None]
    assert sorted(parts + list(names.full.values())) == sorted(keys)


BASE = [
    "model.embed_tokens.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.1.self_attn.q_proj.weight",
    "vision.encoder.layers.0.self_attn.q_proj.weight",
    "vision.head.weight",
    "language_model.model.blocks.0.up.weight",
    "pooler.dense.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("lm_head.weight", "lm_head.weight"),
        ("encoder.layers.0.self_attn.q_proj.weight", "vision.encoder.layers.0.self_attn.q_proj.weight"),
        ("model.language_model.blocks.0.up.weight", "language_model.model.blocks.0.up.weight"),
        ("blocks.0.up.weight", "language_model.model.blocks.0.up.weight"),
        ("bert.pooler.dense.weight", "pooler.dense.weight"),
        ("layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
        ("layers.2.self_attn.q_proj.weight", None),
        ("self_attn.q_proj.weight", None),
        ("blocks.1.up.weight", None),
        ("text.head.weight", None),
        ("encoder.dense.weight", None),
        ("x", None),
    ],
)
def test_resolving(wanted: str, found: str | None) -> None:
    """The base's tensor is found by its longest shared ending, and never in another block."""
    assert Resolver(BASE).find(wanted, "file") == found


def test_ambiguous_names_are_listed() -> None:
    """A name that fits two tensors is refused with both."""
    with pytest.raises(CheckpointError, match=r"'model\.layers\.0.*', 'vision\.encoder\.layers\.0"):
        Resolver(BASE).find("layers.0.self_attn.q_proj.weight", "file")


def test_a_hint_names_a_tensor_alike() -> None:
    """A module that is not found is answered with one of the same name elsewhere."""
    assert "model.layers.0" in Resolver(BASE).alike("model.layers.7.q_proj.weight")
    assert Resolver(BASE).alike("z.weight") == ""
