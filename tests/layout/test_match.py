from dataclasses import replace
from pathlib import Path

from eutectic.layout.match import Kind, compare
from eutectic.layout.roles import Role
from tests.layout.files import floats, model

LLAMA = {
    "model.embed_tokens.weight": (6, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.layers.1.mlp.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (6, 4),
}
UP = "model.layers.1.mlp.up_proj.weight"


def test_equal_models_have_no_findings(tmp_path: Path) -> None:
    """Models of one architecture are matched by name, in the base's order, with nothing to say."""
    base, a, b = (model(tmp_path / name, floats(LLAMA)) for name in ("base", "a", "b"))
    report = compare([a, b], base)
    assert list(report.matches) == list(LLAMA)
    assert report.summary() == ()
    match = report.matches[UP]
    assert (match.place.role, match.place.depth, match.kinds) == (Role.UP, 1.0, frozenset())
    assert match.base == base.source.header[UP]
    assert match.held == (a.source.header[UP], b.source.header[UP])


def test_everything_is_found_at_once(tmp_path: Path) -> None:
    """Missing, extra, misshapen and mistyped tensors of one comparison are all reported, each with its sentence."""
    base = model(tmp_path / "base", floats(LLAMA | {"model.steps": (1,)}) | {"model.count": ("I64", ())})
    shapes = {name: shape for name, shape in LLAMA.items() if name != "model.norm.weight"}
    a = model(
        tmp_path / "a",
        floats(shapes | {UP: (9, 4), "model.extra": (2,)})
        | {"model.count": ("I64", ()), "model.steps": ("BF16", (1,))},
    )
    report = compare([a], base)
    kinds = {name: set(match.kinds) for name, match in report.matches.items() if match.kinds}
    assert kinds == {
        "model.norm.weight": {Kind.MISSING},
        UP: {Kind.SHAPE},
        "model.steps": {Kind.DTYPE},
        "model.count": {Kind.BUFFER},
        "model.extra": {Kind.EXTRA},
    }
    assert report.matches["model.norm.weight"].held == (None,)
    said = "\n".join(report.summary())
    assert f"model.norm.weight: missing from {a.reference}; `missing: base`" in said
    assert f"{UP}: shapes differ: [8, 4] in {base.reference}, [9, 4] in {a.reference}" in said
    assert "`extra: copy`" in said
    assert "I64" in said


def test_summary_is_short(tmp_path: Path) -> None:
    """Many findings of one kind are counted, not listed."""
    base = model(tmp_path / "base", floats({f"layers.{b}.mlp.up_proj.weight": (2, 2) for b in range(9)} | LLAMA))
    a = model(tmp_path / "a", floats(LLAMA))
    lines = compare([a], base).summary(limit=2)
    assert len(lines) == 3
    assert lines[-1] == "missing: 7 more tensors"


def test_without_a_base(tmp_path: Path) -> None:
    """What not every model has is extra, whichever model lacks it."""
    a = model(tmp_path / "a", floats(LLAMA))
    b = model(tmp_path / "b", floats({n: s for n, s in LLAMA.items() if n != UP} | {"more.weight": (1,)}))
    report = compare([a, b])
    assert [match.name for match in report.of(Kind.EXTRA)] == [UP, "more.weight"]
    assert report.matches["more.weight"].held == (None, b.source.header["more.weight"])
    assert report.matches["more.weight"].base is None


def test_vocabulary_rows(tmp_path: Path) -> None:
    """Another number of tokens is told from another width, and the tokens are named."""
    tokens = {"a": 0, "b": 1, "c": 2}
    base = model(tmp_path / "base", floats(LLAMA), tokens=tokens)
    longer = LLAMA | {"model.embed_tokens.weight": (7, 4), "lm_head.weight": (7, 4)}
    a = model(tmp_path / "a", floats(longer), tokens=tokens | {"<pad>": 3, "c": 4})
    report = compare([a], base)
    assert [match.name for match in report.of(Kind.VOCABULARY)] == ["model.embed_tokens.weight", "lm_head.weight"]
    assert report.of(Kind.SHAPE) == ()
    assert any("'<pad>'" in sentence and "other ids: 'c'" in sentence for sentence in report.findings)
    wider = model(tmp_path / "wider", floats(LLAMA | {"model.embed_tokens.weight": (7, 5)}))
    assert [match.name for match in compare([wider], base).of(Kind.SHAPE)] == ["model.embed_tokens.weight"]


def test_tied_head_stands_in(tmp_path: Path) -> None:
    """A model that ties its head lends its embedding where the base has a head; one that says it does not lacks it."""
    base = model(tmp_path / "base", floats(LLAMA), {"tie_word_embeddings": False})
    headless = {name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
    tied = model(tmp_path / "tied", floats(headless), {"tie_word_embeddings": True})
    report = compare([tied], base)
    match = report.matches["lm_head.weight"]
    assert match.kinds == {Kind.STAND_IN}
    assert match.held[0] == tied.source.header["model.embed_tokens.weight"]
    assert any("ties head and embedding" in sentence for sentence in report.findings)
    for number, config in enumerate([{"tie_word_embeddings": False}, {}]):
        lacking = model(tmp_path / f"lacking{number}", floats(headless), config)
        assert compare([lacking], base).matches["lm_head.weight"].kinds == {Kind.MISSING}


def test_tied_copy_and_own_head(tmp_path: Path) -> None:
    """Where the base ties its head, a stored copy is no new tensor; a head of its own is."""
    headless = {name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
    base = model(tmp_path / "base", floats(headless), {"tie_word_embeddings": True})
    copy = model(tmp_path / "copy", floats(LLAMA), {"tie_word_embeddings": True})
    own = model(tmp_path / "own", floats(LLAMA), {"tie_word_embeddings": False})
    assert compare([copy], base).matches["lm_head.weight"].kinds == {Kind.TIED_COPY}
    match = compare([own], base).matches["lm_head.weight"]
    assert match.kinds == {Kind.EXTRA}
    assert "a head of its own" in match.said[Kind.EXTRA]


def test_t5_aliases_stand_in(tmp_path: Path) -> None:
    """Whichever of T5's names for its embedding a file holds serves for the others."""
    config = {"model_type": "t5"}
    names = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
    base = model(tmp_path / "base", floats(dict.fromkeys(names, (6, 4))), config)
    a = model(tmp_path / "a", floats({"shared.weight": (6, 4)}), config)
    report = compare([a], base)
    assert {match.name for match in report.of(Kind.STAND_IN)} == set(names[1:])
    assert report.of(Kind.MISSING) == ()


def test_prefixes(tmp_path: Path) -> None:
    """A prefix that one model has and the other lacks does not hide that they match; specs keep the file's names."""
    bare = {"h.0.attn.c_attn.weight": (4, 12), "h.0.ln_1.weight": (4,), "wte.weight": (6, 4)}
    base = model(tmp_path / "base", floats(bare))
    a = model(tmp_path / "a", floats({f"transformer.{name}": shape for name, shape in bare.items()}))
    for first, second in ((base, a), (a, base)):
        report = compare([second], first)
        assert list(report.matches) == list(first.source.header)
        assert {match.kinds for match in report.matches.values()} == {frozenset()}
        assert [held.name for m in report.matches.values() if (held := m.held[0])] == list(second.source.header)
        assert "prefix 'transformer.'" in report.findings[0]


def test_deltas_may_lack_tensors(tmp_path: Path) -> None:
    """A source of deltas lists what it changes; what it does not is no finding, nor is its float32."""
    base = model(tmp_path / "base", floats(LLAMA, "BF16"))
    adapter = replace(model(tmp_path / "adapter", floats({UP: (8, 4)})), deltas=True)
    report = compare([adapter], base)
    assert report.summary() == ()
    assert report.matches["model.norm.weight"].held == (None,)
    stray = replace(model(tmp_path / "stray", floats({"other.weight": (8, 4)})), deltas=True)
    assert compare([stray], base).matches["other.weight"].kinds == {Kind.EXTRA}


def test_quantised_models(tmp_path: Path) -> None:
    """Codes and scales are refused with the scale's name; the config's word for it is passed on."""
    base = model(tmp_path / "base", floats({UP: (8, 4)}, "BF16"))
    fp8 = model(
        tmp_path / "fp8",
        {UP: ("F8_E4M3", (8, 4)), f"{UP}_scale_inv": ("F32", (1, 1))},
        {"quantization_config": {"quant_method": "fp8"}},
    )
    report = compare([fp8], base)
    assert f"scaled by {UP}_scale_inv" in report.matches[UP].said[Kind.CODES]
    assert report.matches[f"{UP}_scale_inv"].kinds == {Kind.CODES, Kind.EXTRA}
    assert any("quantization_config of method fp8" in sentence for sentence in report.findings)


def test_expert_counts(tmp_path: Path) -> None:
    """Different numbers of experts are one sentence, not only a list of missing names, stacked or apart."""

    def apart(count: int) -> dict[str, tuple[int, ...]]:
        return {f"model.layers.0.mlp.experts.{e}.up_proj.weight": (4, 2) for e in range(count)}

    stacked = {"model.layers.0.mlp.experts.gate_up_proj": (3, 4, 2), "model.layers.0.mlp.experts.down_proj": (3, 2, 2)}
    base = model(tmp_path / "base", floats(apart(4)))
    more = model(tmp_path / "more", floats(apart(6)))
    other = model(tmp_path / "other", floats(stacked))
    report = compare([more, other], base)
    counts = f"4 in {base.reference}, 6 in {more.reference}, 3 in {other.reference}"
    assert any(counts in sentence for sentence in report.findings)
    assert len(report.of(Kind.MISSING)) == 4
    assert compare([base], base).findings == ()


def test_other_tokens_under_the_same_numbers(tmp_path: Path) -> None:
    """As many rows may be other tokens: the report says so, though nothing stops."""
    tensors = floats({"model.embed_tokens.weight": (2, 4)})
    one = model(tmp_path / "one", tensors, None, {"a": 0, "b": 1})
    two = model(tmp_path / "two", tensors, None, {"a": 0, "c": 1})
    report = compare([one, two])
    assert len(report.findings) == 1
    assert "only in" in report.findings[0]
    assert "'c'" in report.findings[0]
    assert compare([one, one]).findings == ()
    assert compare([one, two], tokens=False).findings == ()
