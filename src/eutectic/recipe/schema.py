"""The JSON Schema of a recipe, made from the same declarations that check it; editors and forms read it."""

from collections.abc import Iterable
from typing import Any, get_args

from eutectic.methods import METHODS
from eutectic.methods.declare import REQUIRED, Method, Parameter
from eutectic.recipe.anchors import Anchors
from eutectic.recipe.calibration import Calibration, Head
from eutectic.recipe.model import Output, Recipe
from eutectic.recipe.values import SOURCES, EmaWeights, LinesScale, NanWeights, Part
from eutectic.recipe.vocabulary import JOINED, OPTIONS, Fill, Vocabulary

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_TEXTS: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1}]}
_CHOICES = ("dtype", "input_dtype", "missing", "extra", "buffers", "non_finite")
_BLOCKS: Schema = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 2, "maxItems": 2}


def json_schema() -> Schema:
    """Returns the JSON Schema (draft 2020-12) of a recipe, with every method and its parameters.

    It holds what can be said of one key at a time; which names a recipe defines, and whether values are given where
    they are required, is for `check`.
    """
    every = [(method, own) for method in METHODS.values() for own in method.parameters]
    per_model = [(method, own) for method, own in every if own.bounds.per_model]
    reference = {"type": "string", "minLength": 1, "description": "a path, org/name@revision, or path+adapter"}
    entry: Schema = {"anyOf": [_TEXT, {"$ref": "#/$defs/model"}]}
    step = {"anyOf": [{"enum": list(METHODS)}, {"$ref": "#/$defs/step"}]}
    recipe = _object(
        {
            "base": reference,
            "models": {"anyOf": [*entry["anyOf"], _array(entry)], "description": "`*` and `?` match many"},
            "method": {"anyOf": [step, _array(step)], "description": "transforms, then one combine"},
            "rules": {"type": "array", "items": {"$ref": "#/$defs/rule"}},
            "slices": {"type": "array", "items": {"$ref": "#/$defs/slice"}},
            **{key: _choice(Recipe, key) for key in _CHOICES},
            "vocabulary": {"$ref": "#/$defs/vocabulary"},
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "pickles": {"type": "boolean", "default": False},
            "calibration": {"$ref": "#/$defs/calibration"},
            "anchors": {"$ref": "#/$defs/anchors"},
            "output": {"$ref": "#/$defs/output"},
        },
        required=("models", "method"),
    )
    task = {"task": _TEXT | {"description": "a task of an output that holds parts for several"}, "base": reference}
    model = {"model": reference, "recipe": {"$ref": "#/$defs/recipe"}, "name": _TEXT} | task | _named(per_model)
    source = {"model": reference, "blocks": _BLOCKS} | _named(per_model)
    slices = {"sources": _array({"$ref": "#/$defs/source"}), "base_blocks": _BLOCKS}
    rule = {
        "match": _TEXTS | {"description": "globs on the tensor's name"},
        "role": _TEXTS | {"description": "globs on the tensor's role, or a branch such as attention"},
        "blocks": {
            "anyOf": [_TEXT, {"type": "integer", "minimum": 0}],
            "description": "'0-3,7', both ends included; 'before' and 'behind' are outside all blocks",
        },
        "models": _TEXTS,
        "set": _object(_named(every)),
        "keep": _TEXT,
        "method": recipe["properties"]["method"],
    }
    definitions = {
        "recipe": recipe,
        "model": _object(model) | {"oneOf": [{"required": ["model"]}, {"required": ["recipe"]}]},
        "source": _object(source, required=("model", "blocks")),
        "slice": _object(slices | {"parameters": _object(_named(every))}, required=("sources",)),
        "rule": _object(rule),
        "output": _output(),
        "calibration": _calibration(),
        "anchors": _anchors(),
        "vocabulary": _vocabulary(),
        "token": _token(),
        "fill": _fill(),
        "step": _steps(METHODS.values()),
        "weights": _source(),
        "lines": _lines(),
    }
    definitions |= {f"{method.name}.{own.name}": _parameter(own) for method, own in every}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "eutectic recipe",
        "$ref": "#/$defs/recipe",
        "$defs": definitions,
    }


def _object(properties: Schema, required: Iterable[str] = ()) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": list(required)} if required else {}),
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items, "minItems": 1}


def _choice(part: type[Part], key: str) -> Schema:
    field = part.model_fields[key]
    return {"enum": list(get_args(field.annotation)), "default": field.default}


def _output() -> Schema:
    size = {"type": ["integer", "string"], "description": "largest weight file, such as 5GB", "default": "5GB"}
    rank = {"type": "integer", "minimum": 1, "description": "the most an adapter's updates may have"}
    error = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    error["description"] = "the share of each update's norm that an adapter may lose"
    own = {"dtype": _choice(Output, "dtype"), "shard_size": size, "tokenizer": _TEXT, "chat_template": _TEXT}
    forms = {"form": _choice(Output, "form"), "rank": rank, "error": error, "rest": _choice(Output, "rest")}
    return _object(own | forms)


def _calibration() -> Schema:
    def by_model(one: Schema) -> Schema:
        return {"anyOf": [one, {"type": "object", "additionalProperties": one}]}

    count: Schema = {"type": "integer", "minimum": 1}
    head = {
        "weights": by_model(_TEXT) | {"description": "a safetensors file with weight, and perhaps bias"},
        "prompts": by_model(_TEXT) | {"description": "a table with a text for each class, which the base embeds"},
        "pool": _choice(Head, "pool"),
        "normalize": {"type": "boolean", "default": False},
        "scale": {"type": "number", "default": 1},
    }
    return _object(
        {
            "data": by_model(_TEXT) | {"description": "a file, a folder or a dataset, for all models or by model"},
            "samples": by_model(count) | {"default": 256},
            **{key: count | {"default": Calibration.model_fields[key].default} for key in ("batch", "max_length")},
            "seed": {"type": "integer", "minimum": 0, "description": "which samples; without it the first"},
            "padding": _choice(Calibration, "padding"),
            "text": _TEXT | {"default": "text"},
            "image": _TEXT | {"default": "image"},
            "label": _TEXT,
            "head": _object(head) | {"oneOf": [{"required": ["weights"]}, {"required": ["prompts"]}]},
            "runner": _choice(Calibration, "runner"),
        },
        required=("data",),
    ) | {"description": "what models are shown, for methods that look at activations or gradients"}


def _anchors() -> Schema:
    count: Schema = {"type": "integer", "minimum": 1}
    number: Schema = {"type": "number", "exclusiveMinimum": 0}
    fields = Anchors.model_fields
    counts = ("count", "tokens", "steps", "epochs", "batch")
    return _object(
        {
            **{key: _choice(Anchors, key) for key in ("start", "unit", "init", "align", "distance")},
            **{key: count | {"default": fields[key].default} for key in counts},
            **{key: number | {"default": fields[key].default} for key in ("sigma", "step_size")},
            "rate": number | {"description": "by default 1e-5 from the base, 1e-2 of coefficients"},
        }
    ) | {"description": "functional dual anchors, by which the merge is refined block by block"}


def _vocabulary() -> Schema:
    words = _choice(Vocabulary, "rows")
    by_token = _object(
        {
            "rows": words,
            "tokenizer": _TEXT | {"description": f"{', '.join(JOINED)}, base or a model"},
            "donor": _TEXT | {"description": "another model, whose tokenizer is taken"},
            "fill": {"$ref": "#/$defs/fill"},
            "tokens": {"type": "object", "additionalProperties": {"$ref": "#/$defs/token"}},
            "match": _choice(Vocabulary, "match"),
            "prefixes": {"type": "boolean", "default": False},
            "pad_to_multiple_of": {"type": "integer", "minimum": 1},
        }
    )
    return {"description": "what becomes of the tokens where vocabularies differ", "anyOf": [words, by_token]}


def _token() -> Schema:
    source = {"model": _TEXT, "token": _TEXT, "id": {"type": "integer", "minimum": 0}}
    options = _object(source | {"zero": {"const": True}, "force": {"type": "boolean", "default": False}})
    return {"description": "zero, a model whose row it is, or a token of a model", "anyOf": [_TEXT, options]}


def _fill() -> Schema:
    rules = get_args(Fill.model_fields["rule"].annotation)
    count, number = {"type": "integer", "minimum": 1}, {"type": "number", "minimum": 0}
    kinds: Schema = {"k": count, "ridge": number}
    kinds |= {key: _choice(Fill, key) for key in ("weights", "distance", "map", "pieces")}
    forms = {rule: _object({key: kinds[key] for key in OPTIONS.get(rule, ())}) for rule in rules}
    options = _object(forms) | {"minProperties": 1, "maxProperties": 1}
    return {"description": "how a row is made that a model lacks", "anyOf": [{"enum": list(rules)}, options]}


def _source() -> Schema:
    """Where numbers for all models at once may come from: a word, or a word with options."""
    scale = {"anyOf": [{"enum": ["n/2"]}, {"type": "number"}], "default": "n/2"}
    decay = {"type": "number", "minimum": 0, "maximum": 1, "default": EmaWeights.model_fields["decay"].default}
    options: dict[str, Schema] = {
        "nan": {"of": _choice(NanWeights, "of"), "per": _choice(NanWeights, "per"), "scale": scale},
        "sma": {},
        "wma": {},
        "ema": {"decay": decay, "normalized": {"type": "boolean", "default": False}},
    }
    assert set(options) == set(SOURCES)
    return {
        "description": "a source of weights, for all models at once",
        "anyOf": [{"enum": list(options)}, *(_object({n: _object(o)}, required=(n,)) for n, o in options.items())],
    }


def _lines() -> Schema:
    alpha = {"anyOf": [{"enum": ["1/n"]}, {"type": "number"}], "default": LinesScale.model_fields["alpha"].default}
    options = _object({"alpha": alpha, "beta": {"type": "number"}}, required=("beta",))
    return {"description": "rises over the blocks (LiNeS)"} | _object({"lines": options}, required=("lines",))


def _steps(methods: Iterable[Method[Any]]) -> Schema:
    steps: Schema = {}
    for method in methods:
        own = {entry.name: {"$ref": f"#/$defs/{method.name}.{entry.name}"} for entry in method.parameters}
        steps[method.name] = _object(own) | {
            "type": ["object", "null"],
            "description": method.doc.partition("\n\n")[0].replace("\n", " "),
        }
    return _object(steps) | {"minProperties": 1, "maxProperties": 1}


def _parameter(own: Parameter) -> Schema:
    """One parameter: its kind, bounds, default and meaning."""
    about: Schema = {"description": own.doc} if own.doc else {}
    if own.default is not REQUIRED:
        about["default"] = own.default
    if own.kind == "choice":
        return about | {"enum": list(own.choices)}
    if own.kind == "bool":
        return about | {"type": "boolean"}
    limits = {"minimum": own.bounds.low, "maximum": own.bounds.high}
    number: Schema = {"type": "integer" if own.kind == "int" else "number"}
    number |= {key: limit for key, limit in limits.items() if limit is not None}
    if own.kind == "int":
        return about | number
    forms: list[Schema] = [number, {"type": "array", "items": number, "minItems": 2, "description": "over depth"}]
    forms.append({"$ref": "#/$defs/lines"})
    return about | {"anyOf": forms + ([{"$ref": "#/$defs/weights"}] if own.bounds.per_model else [])}


def _named(parameters: Iterable[tuple[Method[Any], Parameter]]) -> Schema:
    """Parameters by bare name, where any method's may be meant, and by `method.name`."""
    named: Schema = {}
    for method, own in parameters:
        reference = {"$ref": f"#/$defs/{method.name}.{own.name}"}
        named.setdefault(own.name, {"anyOf": []})["anyOf"].append(reference)
        named[f"{method.name}.{own.name}"] = reference
    return named
