"""Documents of mergekit's other tools: what they are, and what serves instead."""

from collections.abc import Mapping

from eutectic.recipe.document import Node

_MOE = (
    "this is a recipe of mergekit-moe, which joins models to a mixture of experts; that is not built here yet. "
    "To make one dense model of them, list them under `models:` with a `merge_method`"
)
_EVOLVE = (
    "this is a recipe of mergekit-evolve, which searches for weights by evaluating merges; that is not built here. "
    "Merge its best recipe (best_config.yaml), or loop over `eutectic.run` in Python with a score of your own"
)
_BAKLLAMA = (
    "this is a recipe of bakllama, which stacks layers; write `merge_method: passthrough` with `slices` and their "
    "`layer_range`"
)
#: Commands of mergekit's, and what serves instead.
COMMANDS: Mapping[str, str] = {
    "mergekit-yaml": "`eutectic merge CONFIG -o OUT` takes its file and its flags",
    "mergekit-multi": "`eutectic merge CONFIG -o OUT` takes its file; what it names in between is not written",
    "mergekit-pytorch": "`eutectic merge CONFIG -o OUT` takes its file: models may be files. Allow pickles by "
    "--lazy-unpickle",
    "mergekit-legacy": "write its arguments as a recipe: `merge_method`, `base_model`, and `models` with their weights",
    "mergekit-moe": "mixtures of experts are not built here yet",
    "mergekit-evolve": "searches are not built here; loop over `eutectic.run` in Python with a score of your own",
    "mergekit-extract-lora": "`eutectic adapter extract MODEL --base BASE -o OUT --rank R`, or --error for --rank",
    "mergekit-tokensurgeon": "a recipe's `vocabulary` gives a model another tokenizer; see docs/vocabularies.md",
    "mergekit-layershuffle": "let it write its recipe (--write-yaml), and give that to `eutectic merge`",
    "bakllama": "write `merge_method: passthrough` with `slices`, and give that to `eutectic merge`",
}


def recognise(top: Node) -> str | None:
    """Says what serves instead of the tool that a document is for; None when it is for none of them."""
    keys = set(top.value) if isinstance(top.value, dict) else set()
    if "merge_method" in keys:
        return None
    if {"experts", "base_model"} <= keys or {"experts", "gate_mode"} <= keys:
        return _MOE
    if "genome" in keys:
        return _EVOLVE
    if {"layer_slices"} <= keys:
        return _BAKLLAMA
    return None
