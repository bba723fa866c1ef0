import pytest

from eutectic.recipe.document import DocumentError, compose
from eutectic.recipe.mergekit.grammar import read_document
from eutectic.recipe.mergekit.stages import join
from eutectic.recipe.mergekit.translate import Translation


def read(text: str) -> Translation:
    """Joins documents."""
    tops, _ = compose(text)
    return join([read_document(top) for top in tops], mend=False)


def merge(name: str, *models: str) -> str:
    """Returns a document that averages models."""
    head = f"name: {name}\n" if name else ""
    listed = ", ".join(f"{{model: {model}}}" for model in models)
    return f"{head}merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{listed}]\n"


def test_named_merges_are_stages() -> None:
    """In whatever order they are written; a stage writes no output of its own."""
    found = read(merge("", "x", "c") + "---\n" + merge("x", "a", "b") + "dtype: float16\n").recipe
    stage, model = found["models"]
    assert (stage["name"], model) == ("x", {"model": "c"})
    assert [entry["model"] for entry in stage["recipe"]["models"]] == ["a", "b"]
    assert "output" not in stage["recipe"]
    assert stage["recipe"]["input_dtype"] == "float16"


def test_the_last_may_have_a_name() -> None:
    """It is the one that no other uses."""
    found = read(merge("x", "a", "b") + "---\n" + merge("y", "x", "c")).recipe
    assert [entry.get("name") for entry in found["models"]] == ["x", None]


def test_what_leads_nowhere_is_left_out() -> None:
    """And said."""
    found = read(merge("x", "a", "b") + "---\n" + merge("", "a", "c"))
    assert [remark.said for remark in found.remarks] == [
        "the merge x is used by none that leads to the output, and is left out"
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (merge("x", "a") + "---\n" + merge("x", "b"), "two merges are called x"),
        (merge("", "a") + "---\n" + merge("", "b"), "without a name"),
        (merge("x", "a") + "---\n" + merge("y", "b"), "found x, y"),
        (
            merge("x", "y") + "---\n" + merge("y", "x") + "---\n" + merge("", "x"),
            "in a circle: y -> x -> y|x -> y -> x",
        ),
    ],
)
def test_refusals(text: str, says: str) -> None:
    """Names twice, several ends, circles."""
    with pytest.raises(DocumentError, match=says):
        read(text)


def test_merges_that_multiply_are_refused() -> None:
    """Each uses all before it: the fifteenth would hold sixteen thousand."""
    names = [f"m{number}" for number in range(15)]
    text = "---\n".join(merge(name, "a", *names[:at]) for at, name in enumerate(names))
    with pytest.raises(DocumentError, match="at most 256 merges within a merge"):
        read(text)
