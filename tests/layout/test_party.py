from pathlib import Path

from eutectic.layout.infer import infer
from eutectic.layout.party import Party, renamed
from tests.layout.files import floats, model


def test_unlike_names_are_left_alone(tmp_path: Path) -> None:
    """Models that share nothing, or whose names would collide, are not renamed."""
    a = model(tmp_path / "a", floats({"x.weight": (1,), "y.weight": (1,)}))
    b = model(tmp_path / "b", floats({"u.p": (1,), "v.q": (1,)}))
    assert renamed(b, a) == (b.source.header, None)
    empty = model(tmp_path / "empty", {})
    assert renamed(empty, a) == (empty.source.header, None)


def test_an_added_head_does_not_prevent_a_prefix(tmp_path: Path) -> None:
    """A head put on a bare encoder is renamed to nothing the encoder knows, and stays an extra."""
    bare = floats({"encoder.layer.0.output.dense.weight": (2, 2), "embeddings.word_embeddings.weight": (4, 2)})
    headed = {f"bert.{name}": tensor for name, tensor in bare.items()} | floats({"classifier.weight": (2, 2)})
    a, b = model(tmp_path / "a", bare), model(tmp_path / "b", headed)
    header, sentence = renamed(b, a)
    assert set(header) == {*bare, "classifier.weight"}
    assert sentence is not None
    assert "'bert.'" in sentence


def test_stand_in_is_for_words_only(tmp_path: Path) -> None:
    """No tensor but heads and embeddings is ever replaced by another."""
    reference = model(tmp_path / "a", floats({"wte.weight": (4, 2), "lm_head.weight": (4, 2), "ln_f.weight": (2,)}))
    own = model(tmp_path / "b", floats({"wte.weight": (4, 2)}), {"model_type": "gpt2"})
    layout = infer(reference.source.header, {})
    party = Party(own, own.source.header)
    assert party.stand_in("lm_head.weight", layout) == own.source.header["wte.weight"]
    assert party.stand_in("ln_f.weight", layout) is None
    assert party.stand_in("unknown", layout) is None
