"""Every kind of finding under every policy: merged, copied, dropped or refused, and why."""

from pathlib import Path
from typing import Any

import pytest
import torch

import eutectic
from tests.make.adapters import factors, write_adapter
from tests.plan.small import EMBEDDING, HEAD, NORM, Q, copied, dropped, merged, plan, recipe, tensors, write

TIED = {"tie_word_embeddings": True}


def refusal(asked: eutectic.Recipe) -> str:
    """Returns the message a plan is refused with."""
    with pytest.raises(eutectic.MismatchError) as caught:
        plan(asked)
    return str(caught.value)


def test_nothing_special(tmp_path: Path) -> None:
    """Tensors all models have in one shape are merged, in the base's order, one row a model."""
    found = plan(recipe(tmp_path, tensors(), tensors(), tensors(), method="task_arithmetic"))
    assert [site.spec.name for site in found.merged] == list(eutectic.open(tmp_path / "base").source.header)
    site = merged(found, NORM)
    assert [feed.source for feed in site.feeds] == [0, 1, 2]
    assert site.base is not None
    assert not site.why
    assert not found.copied
    assert not found.dropped


def test_a_base_that_nobody_needs_is_not_read(tmp_path: Path) -> None:
    """Linear takes no base: its row is not among the feeds."""
    assert merged(plan(recipe(tmp_path, tensors(), tensors(), tensors())), NORM).base is None


def test_missing(tmp_path: Path) -> None:
    """A tensor a model lacks: refused, taken from the base, or merged of those who have it."""
    given = (tensors(), tensors(q1=None), tensors())
    weights = {"task_arithmetic": {"weight": [1, 1]}}
    text = refusal(recipe(tmp_path, *given))
    assert Q.format(1) in text
    assert "m0" in text
    assert "missing: base" in text
    based = merged(plan(recipe(tmp_path, *given, missing="base", method=weights)), Q.format(1))
    assert [(feed.zero, feed.delta) for feed in based.models] == [(True, True), (False, False)]
    assert based.base is not None
    asked = recipe(tmp_path, *given, missing="present", method="task_arithmetic", rules=[
        {"models": ["m0"], "set": {"weight": 5}}, {"models": ["m1"], "set": {"weight": 7}},
    ])  # fmt: skip
    present = merged(plan(asked), Q.format(1))
    assert [feed.source for feed in present.models] == [2]
    assert present.steps[0].values["weight"] == (7,)
    assert "missing" in present.why


def test_missing_everywhere(tmp_path: Path) -> None:
    """A tensor only the base has: refused, or copied from it."""
    given = (tensors(), tensors(q1=None), tensors(q1=None))
    assert "no model holds it" in refusal(recipe(tmp_path, *given, missing="present"))
    found = plan(recipe(tmp_path, *given, missing="base", method="task_arithmetic"))
    assert copied(found, Q.format(1)).feed.source == 0
    assert "no model changes it" in copied(found, Q.format(1)).why


def test_extra(tmp_path: Path) -> None:
    """A tensor the base lacks: refused, copied from who has it, or dropped and listed."""
    given = (tensors(), tensors(), tensors(**{"model.extra.weight": torch.ones(3)}))
    text = refusal(recipe(tmp_path, *given))
    assert "model.extra.weight" in text
    assert "extra: copy" in text
    kept = copied(plan(recipe(tmp_path, *given, extra="copy")), "model.extra.weight")
    assert kept.feed.source == 2
    assert kept.spec.dtype.name == "F32"
    gone = plan(recipe(tmp_path, *given, extra="drop"))
    assert "extra: drop" in dropped(gone, "model.extra.weight").why
    assert "model.extra.weight" not in gone.layout.shards[0].offsets


def test_extra_without_a_base(tmp_path: Path) -> None:
    """Without a base, what some model lacks is extra."""
    given = (None, tensors(), tensors(q0=None))
    assert Q.format(0) in refusal(recipe(tmp_path, *given))
    assert copied(plan(recipe(tmp_path, *given, extra="copy")), Q.format(0)).feed.source == 0


def test_tied_copy_is_dropped(tmp_path: Path) -> None:
    """A head that the base ties and a model stores again is dropped, and the plan says so."""
    base, first = write(tmp_path, "base", tensors(head=None), **TIED), write(tmp_path, "m", tensors(), **TIED)
    found = plan(recipe(tmp_path, base, first))
    assert "twice" in dropped(found, HEAD).why
    assert HEAD not in found.layout.shards[0].offsets


def test_stand_in(tmp_path: Path) -> None:
    """A head the base stores is merged with the embedding of a model that ties it."""
    base, first = write(tmp_path, "base", tensors(), **TIED), write(tmp_path, "m", tensors(head=None), **TIED)
    site = merged(plan(recipe(tmp_path, base, first, method="task_arithmetic")), HEAD)
    assert site.models[0].name == EMBEDDING
    assert "stands in" in site.why


def test_vocabulary(tmp_path: Path) -> None:
    """Different numbers of tokens: refused with the sizes, cut to the common rows, or filled from the base."""
    short = tensors(embedding=torch.ones(5, 4).bfloat16(), head=torch.ones(5, 4).bfloat16())
    given = (tensors(), short, tensors())
    text = refusal(recipe(tmp_path, *given))
    assert "[6, 4]" in text
    assert "[5, 4]" in text
    assert "vocabulary: truncate" in text
    cut = plan(recipe(tmp_path, *given, vocabulary="truncate"))
    assert merged(cut, EMBEDDING).spec.shape == (5, 4)
    assert {feed.numel for feed in merged(cut, HEAD).models} == {20}
    config = next(each for each in cut.sidecars if each.name == "config.json")
    assert b'"vocab_size": 5' in (config.content or b"")
    filled = merged(plan(recipe(tmp_path, *given, vocabulary="base")), EMBEDDING)
    assert filled.spec.shape == (6, 4)
    assert [feed.numel for feed in filled.models] == [20, 24]
    assert filled.base is not None


def test_vocabulary_base_needs_a_base(tmp_path: Path) -> None:
    """Rows beyond a model's own come from somewhere."""
    short = tensors(embedding=torch.ones(5, 4).bfloat16(), head=torch.ones(5, 4).bfloat16())
    with pytest.raises(eutectic.RecipeError, match="needs a base"):
        plan(recipe(tmp_path, None, tensors(), short, vocabulary="base"))


@pytest.mark.parametrize("policies", [{}, {"vocabulary": "truncate", "missing": "base", "extra": "copy"}])
def test_shape(policies: dict[str, Any], tmp_path: Path) -> None:
    """Other differences of shape are refused under every policy."""
    text = refusal(recipe(tmp_path, tensors(), tensors(q0=torch.ones(4, 3).bfloat16()), **policies))
    assert Q.format(0) in text
    assert "[4, 3]" in text


def test_dtype(tmp_path: Path) -> None:
    """Floats of several types are merged into the base's type, or into the type asked for."""
    wide = {name: value.float() for name, value in tensors().items()}
    found = plan(recipe(tmp_path, tensors(), wide, tensors()))
    assert merged(found, NORM).spec.dtype.name == "BF16"
    assert "F32" in merged(found, NORM).why
    asked = recipe(tmp_path, None, wide, tensors(), output={"dtype": "float16"})
    assert merged(plan(asked), NORM).spec.dtype.name == "F16"


def test_codes(tmp_path: Path) -> None:
    """Quantised codes are refused under every policy."""
    codes = tensors(q0=torch.ones(4, 4).to(torch.float8_e4m3fn), **{Q.format(0) + "_scale_inv": torch.ones(1)})
    policies = {"buffers": "base", "extra": "copy", "missing": "base"}
    assert Q.format(0) in refusal(recipe(tmp_path, codes, codes, **policies))
    kept = plan(recipe(tmp_path, codes, codes, rules=[{"match": "*q_proj*", "keep": "base"}]))
    assert copied(kept, Q.format(0)).spec.dtype.name == "F8_E4M3"


def test_buffer(tmp_path: Path) -> None:
    """Whole numbers are copied when equal, which the run checks; other shapes are refused, or the base's is taken."""
    key = "model.ids"
    here, there = (tensors(**{key: torch.arange(n)}) for n in (5, 6))
    same = copied(plan(recipe(tmp_path, here, here, here, output={"dtype": "float32"})), key)
    assert [feed.source for feed in same.equal] == [1, 2]
    assert same.spec.dtype.name == "I64"
    assert "buffers: base" in refusal(recipe(tmp_path, here, there))
    taken = copied(plan(recipe(tmp_path, here, there, buffers="base")), key)
    assert taken.equal == ()
    assert taken.spec.shape == (5,)


def test_keep(tmp_path: Path) -> None:
    """A rule takes a tensor unchanged from the base or a model, whatever else is special about it."""
    odd = tensors(q0=torch.ones(4, 3).bfloat16())
    rules = [{"match": Q.format(0), "keep": "m0"}, {"match": NORM, "keep": "base"}]
    found = plan(recipe(tmp_path, tensors(), odd, rules=rules, output={"dtype": "float32"}))
    assert copied(found, Q.format(0)).spec.shape == (4, 3)
    assert copied(found, Q.format(0)).feed.source == 1
    assert copied(found, NORM).feed.source == 0
    assert copied(found, NORM).spec.dtype.name == "F32"
    lacking = recipe(tmp_path, tensors(), tensors(norm=None), rules=[{"match": NORM, "keep": "m0"}])
    assert "does not have it" in refusal(lacking)


def test_adapter(tmp_path: Path) -> None:
    """What an adapter does not touch is copied from the base; what it touches is merged as a delta."""
    base = write(tmp_path, "base", tensors())
    lora = write_adapter(tmp_path / "lora", factors(Q.format(0).removesuffix(".weight"), 4, 4))
    asked = recipe(tmp_path, base, str(lora), method="task_arithmetic")
    found = eutectic.plan(asked)
    assert [site.spec.name for site in found.merged] == [Q.format(0)]
    assert found.merged[0].models[0].delta
    assert {each.why for each in found.copied} == {"no model changes it"}
    with pytest.raises(eutectic.MismatchError, match="an adapter without weights"):
        eutectic.plan(recipe(tmp_path, base, str(lora), rules=[{"match": Q.format(0), "keep": "lora"}]))
    with pytest.raises(eutectic.RecipeError, match=r"base\+adapter"):
        eutectic.plan(eutectic.merge([str(lora), base], method="linear"))
    with pytest.raises(eutectic.RecipeError, match="cannot be the base"):
        eutectic.plan(eutectic.merge([base], base=str(lora), method="linear"))


def test_every_problem_at_once(tmp_path: Path) -> None:
    """One refusal lists what is missing, extra, of another shape, of another vocabulary, and a buffer's."""
    base = tensors(**{"model.ids": torch.arange(5)})
    odd = tensors(
        q0=torch.ones(4, 3).bfloat16(), q1=None, embedding=torch.ones(5, 4).bfloat16(),
        **{"model.ids": torch.arange(6), "model.extra.weight": torch.ones(3)},
    )  # fmt: skip
    text = refusal(recipe(tmp_path, base, odd))
    for name in (Q.format(0), Q.format(1), EMBEDDING, "model.ids", "model.extra.weight"):
        assert name in text
    assert NORM not in text


def test_many_problems_are_counted(tmp_path: Path) -> None:
    """A long list is cut, and says how many more there are."""
    extra = {f"model.extra.{n}.weight": torch.ones(3) for n in range(50)}
    text = refusal(recipe(tmp_path, tensors(), tensors(**extra)))
    assert "and 30 more" in text
    assert len(text.splitlines()) == 22


def test_number_of_models(tmp_path: Path) -> None:
    """A method that takes two models is not given one, also where only one has the tensor."""
    given = (None, tensors(), tensors(q0=None))
    asked = recipe(tmp_path, *given, method={"slerp": {"t": 0.5}}, extra="copy")
    assert copied(plan(asked), Q.format(0)).feed.source == 0
    three = (tensors(), tensors(), tensors(q0=None), tensors(q0=None))
    text = refusal(recipe(tmp_path, *three, method="model_stock", missing="present"))
    assert "model_stock takes at least 2 models, found 1" in text


def test_slices(tmp_path: Path) -> None:
    """Blocks are written anew from the blocks they come from; a block that does not exist is refused."""
    slices = [{"sources": [{"model": "m0", "blocks": [0, 2]}]}, {"sources": [{"model": "m1", "blocks": [0, 1]}]}]
    found = plan(recipe(tmp_path, None, tensors(), tensors(), method="passthrough", slices=slices))
    feeds = {site.spec.name: site.models[0] for site in found.merged} | {c.spec.name: c.feed for c in found.copied}
    assert {Q.format(b): (feeds[Q.format(b)].source, feeds[Q.format(b)].name) for b in range(3)} == {
        Q.format(0): (0, Q.format(0)), Q.format(1): (0, Q.format(1)), Q.format(2): (1, Q.format(0)),
    }  # fmt: skip
    config = next(each for each in found.sidecars if each.name == "config.json")
    assert b'"num_hidden_layers": 3' in (config.content or b"")
    wrong = [{"sources": [{"model": "m0", "blocks": [1, 4]}]}]
    with pytest.raises(eutectic.EutecticError, match="block 2 was asked for"):
        plan(recipe(tmp_path, None, tensors(), method="passthrough", slices=wrong))


def test_tensors_outside_a_domain(tmp_path: Path) -> None:
    """TSV-M merges projections; norms, embedding and head move by the mean delta times its scale, and it is said."""
    method = {"tsv_m": {"scale": 3, "weight": "nan"}}
    found = plan(recipe(tmp_path, tensors(), tensors(), tensors(), method=method))
    assert merged(found, Q.format(0)).steps[0].method.name == "tsv_m"
    assert not merged(found, Q.format(0)).aside
    for name, why in ((NORM, "1-D"), (EMBEDDING, "embedding.word"), (HEAD, "head.word")):
        (step,) = merged(found, name).steps
        assert step.method.name == "task_arithmetic"
        assert step.values == {"scale": 1.5, "normalize": False}
        assert list(step.coefficients) == ["weight"]
        assert merged(found, name).aside == f"{why}: tsv_m is for linear maps, task_arithmetic merges it"
    text = " ".join(found.explain().split())
    assert "1 tensors by task_arithmetic (1-D: tsv_m is for linear maps, task_arithmetic merges it)" in text
    assert found.describe()["aside"][NORM] == merged(found, NORM).aside
    every = plan(recipe(tmp_path, tensors(), tensors(), method={"tsv_m": {"tensors": "matrices"}}))
    assert merged(every, EMBEDDING).steps[0].method.name == "tsv_m"
    assert merged(every, NORM).aside.startswith("1-D: tsv_m is for matrices")


def test_the_base_outside_a_domain(tmp_path: Path) -> None:
    """WUDI keeps the base elsewhere; where the policy gives the output other rows than the base has, it cannot."""
    found = plan(recipe(tmp_path, tensors(), tensors(), method="wudi"))
    assert copied(found, NORM).why == "1-D: wudi is for linear maps, the base is kept"
    assert copied(found, EMBEDDING).feed.source == 0
    averaged = plan(recipe(tmp_path, tensors(), tensors(), method={"wudi": {"others": "mean"}}))
    assert merged(averaged, NORM).steps[0].method.name == "task_arithmetic"
    short = tensors(embedding=torch.ones(5, 4).bfloat16(), head=torch.ones(5, 4).bfloat16())
    text = refusal(recipe(tmp_path, tensors(), short, method="wudi", vocabulary="truncate"))
    assert "the base has [6, 4] for [5, 4]" in text
    assert "by a rule" in text
