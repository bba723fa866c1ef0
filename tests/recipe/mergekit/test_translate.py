from typing import Any

import pytest

from eutectic.recipe.document import DocumentError, compose
from eutectic.recipe.mergekit.grammar import read_document
from eutectic.recipe.mergekit.translate import Translation, escape_name, translate

#: A source of a slice.
A = "{model: a, layer_range: [0, 2]}"
#: What every translation says.
ALWAYS = {"missing": "present", "extra": "copy", "output": {"dtype": "promote"}}


def read(text: str, *, mend: bool = False, stages: dict[str, dict[str, Any]] | None = None) -> Translation:
    """Translates one document."""
    (top,), _ = compose(text)
    return translate(read_document(top), stages, mend=mend)


def said(found: Translation) -> list[str]:
    """What is said of it."""
    return [remark.said for remark in found.remarks if remark.said]


def test_linear() -> None:
    """Weights stand with the models; the least type that holds all is written."""
    found = read(
        "merge_method: linear\nmodels:\n- {model: a, parameters: {weight: 1}}\n- model: b\nparameters: {weight: 2}\n"
    )
    assert found.recipe == {
        "models": [{"model": "a", "weight": 1}, {"model": "b", "weight": 2}], "method": [{"linear": {}}], **ALWAYS
    }  # fmt: skip
    assert found.remarks == []


def test_a_base_that_is_not_listed_is_added() -> None:
    """To `models`: as the base where the method has one, as one more model where it has none, which is said."""
    text = "merge_method: {}\nmodels: [{{model: a}}, {{model: b}}]\nbase_model: c\nparameters: {{weight: 1}}\n"
    found = read(text.format("task_arithmetic"))
    assert (found.recipe["base"], [entry["model"] for entry in found.recipe["models"]]) == ("c", ["a", "b"])
    found = read(text.format("linear"))
    assert (found.recipe["base"], [entry["model"] for entry in found.recipe["models"]]) == ("c", ["a", "b", "c"])
    assert said(found) == ["linear takes the base as one more model"]


def test_types() -> None:
    """`dtype` rounds the inputs, and the output unless there is an `out_dtype`; mended, the output alone."""
    text = "merge_method: karcher\nmodels: [{model: a}]\ndtype: float16\n".replace("karcher", "passthrough")
    assert read(text).recipe["input_dtype"] == "float16"
    assert read(text + "out_dtype: bfloat16\n").recipe["output"] == {"dtype": "bfloat16"}
    mended = read(text, mend=True)
    assert "input_dtype" not in mended.recipe
    assert mended.recipe["output"] == {"dtype": "float16"}
    assert [remark.line for remark in mended.remarks] == [3]


def test_ties_and_its_traps() -> None:
    """Exactly: a cut per tensor, a plus for ties; mended: the paper's."""
    text = (
        "merge_method: ties\nbase_model: b\nmodels: [{model: a}]\n"
        "parameters: {density: 0.2, weight: 1, normalize: false, lambda: 0.5, int8_mask: true}\n"
    )
    exact, mended = read(text), read(text, mend=True)
    assert exact.recipe["method"] == [
        {"trim": {"scope": "tensor", "count": "exact", "density": 0.2}},
        {"ties": {"density": 1, "tie": "plus", "average": "sum", "scale": 0.5}},
    ]
    assert mended.recipe["method"] == [
        {"trim": {"density": 0.2}},
        {"ties": {"density": 1, "average": "sum", "scale": 0.5}},
    ]
    assert said(exact) == [
        "ties: a vote of exactly 0 elects plus",
        "ties: each tensor is trimmed by a cut of its own, where the paper has one for the whole model",
    ]
    assert said(read(text.replace("density: 0.2, ", "")))[1] == "ties: density is given nowhere, so nothing is dropped"


def test_slices() -> None:
    """Ranges, the base's own range, values of slices and of sources."""
    found = read(
        "merge_method: task_arithmetic\nbase_model: c\nslices:\n"
        "- sources:\n  - {model: a, layer_range: [0, 2], parameters: {weight: 0.9}}\n"
        "  - {model: c, layer_range: [0, 2]}\n"
        "- sources:\n  - {model: c, layer_range: [1, 3]}\n  - {model: a, layer_range: [2, 4]}\n"
        "  parameters: {lambda: 0.5}\n"
        "parameters: {weight: 0.1}\n"
    )
    assert found.recipe["slices"] == [
        {"sources": [{"model": "a", "blocks": [0, 2], "weight": 0.9}], "parameters": {"scale": 1}},
        {
            "sources": [{"model": "a", "blocks": [2, 4], "weight": 0.1}],
            "base_blocks": [1, 3],
            "parameters": {"scale": 0.5},
        },
    ]
    assert "rules" not in found.recipe


def test_more_sources_in_the_last_slice() -> None:
    """What lies behind comes from as many models as the first slice has: an empty slice at the end says so."""
    text = (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n- sources: [{model: a, layer_range: [0, 2]}]\n"
        "- sources: [{model: b, layer_range: [2, 4]}, {model: a, layer_range: [2, 4]}]\n"
    )
    exact, mended = read(text), read(text, mend=True)
    assert exact.recipe["slices"][2] == {"sources": [{"model": "b", "blocks": [4, 4]}]}
    assert said(exact) == ["lm_head and the final norm leave out a: the last slice has more sources than the first"]
    assert len(mended.recipe["slices"]) == 2


def test_slerp_from_elsewhere() -> None:
    """A base that is no source, which mergekit came to refuse: from the first to the second."""
    found = read(
        "merge_method: slerp\nbase_model: c\nparameters: {t: 0.3}\nslices:\n"
        "- sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n"
    )
    assert "base" not in found.recipe
    assert said(found) == ["slerp goes from the first source to the second: its base c is none of them"]


def test_slerp_from_a_stage() -> None:
    """A base that is itself a merge is the first model."""
    text = "merge_method: slerp\nbase_model: s\nmodels: [{model: a}]\nparameters: {t: 0.3}\n"
    stage = {"models": ["x", "y"], "method": "linear"}
    found = read(text, stages={"s": stage})
    assert found.recipe["models"] == [{"recipe": stage, "name": "s"}, {"model": "a"}]
    with pytest.raises(DocumentError, match="merge it first"):
        read(text.replace("slerp", "nearswap"), stages={"s": stage})


def test_modules() -> None:
    """Other modules have rules: other weights, or one model's tensors; the projector's stand behind the tower's."""
    weights = "models: [{model: a, parameters: {weight: %s}}, {model: b, parameters: {weight: %s}}]"
    found = read(
        "merge_method: linear\nmodules:\n  multi_modal_projector: {models: [{model: a, parameters: {weight: 1}}]}\n"
        f"  vision_tower: {{{weights % (3, 4)}}}\n  text_decoder: {{{weights % (1, 2)}}}\n"
    )
    assert found.recipe["models"] == [{"model": "a", "weight": 1}, {"model": "b", "weight": 2}]
    tower = ["*vision_tower.*", "*visual.*"]
    assert found.recipe["rules"] == [
        {"match": tower, "models": ["a"], "set": {"weight": 3}},
        {"match": tower, "models": ["b"], "set": {"weight": 4}},
        {"match": tower, "set": {"normalize": True}},
        {"match": ["*multi_modal_projector.*", "*visual.merger*", "*visual.deepstack_merger*"], "keep": "a"},
    ]
    with pytest.raises(DocumentError, match="module odd: expected the models of text_decoder, or one model"):
        read(
            "merge_method: linear\nparameters: {weight: 1}\nmodules:\n  text_decoder: {models: [{model: a}]}\n"
            "  odd: {models: [{model: c}, {model: d}]}\n"
        )


def test_a_model_that_only_gives_a_module_weighs_nothing_elsewhere() -> None:
    """Which a weight of 0 says; methods without such a weight need slices to leave it out."""
    text = (
        "merge_method: {}\nbase_model: a\nparameters: {{weight: 1}}\nmodules:\n"
        "  text_decoder: {{models: [{{model: a}}, {{model: b}}, {{model: d}}]}}\n  odd: {{models: [{{model: c}}]}}\n"
    )
    with pytest.raises(DocumentError, match="c is none of the models of text_decoder; give that slices"):
        read(text.format("karcher").replace("base_model: a\n", ""))
    found = read(text.format("linear").replace("base_model: a\n", ""))
    assert found.recipe["models"][-1] == {"model": "c", "weight": 0}
    assert found.recipe["rules"] == [{"match": ["odd.*"], "keep": "c"}]


def test_nuslerp_reads_two_switches_as_one_word() -> None:
    """Flat is a tensor; else rows and columns, the wrong way round unless mended."""
    text = (
        "merge_method: nuslerp\nmodels: [{model: a}, {model: b}]\n"
        "parameters: {weight: 1, nuslerp_flatten: %s, nuslerp_row_wise: %s}\n"
    )
    scope = {}
    for flat in ("true", "false"):
        for rows in ("true", "false"):
            for mend in (False, True):
                (step,) = read(text % (flat, rows), mend=mend).recipe["method"]
                scope[flat, rows, mend] = step["nuslerp"].get("scope", "tensor")
    assert {scope["true", rows, mend] for rows in ("true", "false") for mend in (False, True)} == {"tensor"}
    assert [scope["false", rows, mend] for rows in ("true", "false") for mend in (False, True)] == [
        "column", "row", "row", "column"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("merge_method: tise\nmodels: [{model: a}]", "did you mean 'ties'"),
        ("merge_method: ties\nmodels: [{model: a}]", "needs a base"),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]\nparameters: {t: 1}",
            "exactly 1 models beside",
        ),
        ("merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]", "at least 2"),
        ("merge_method: linear\nmodels: [{model: a}, {model: a}]", "a source twice"),
        (
            "merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: {filter: mlp, value: 1}}",
            "no filter gives weight",
        ),
        ("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]", "parameters: slerp needs t"),
        ("merge_method: linear\nmodels: [{model: a}]\nparameters: {weight: x}", "weight is a finite number"),
        (
            "merge_method: ties\nbase_model: c\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}]",
            "expected the base c among the sources",
        ),
        (f"merge_method: linear\nslices: [{{sources: [{A}, {{model: b, layer_range: [0, 1]}}]}}]", "of one length"),
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 10001]}]}]", "at most 10000 layers"),
        (f"merge_method: slerp\nslices: [{{sources: [{A}], base_model: b}}, {{sources: [{A}]}}]", "different bases"),
    ],
)
def test_refusals(text: str, says: str) -> None:
    """As mergekit refuses them, before any file is opened."""
    with pytest.raises(DocumentError, match=says):
        read(text)


def test_names() -> None:
    """A module's name is no pattern."""
    assert escape_name("a[0]*") == "a[[]0][*]"
