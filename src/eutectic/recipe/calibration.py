"""What a recipe says of calibration: the data that models are shown, and how much of it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, StrictBool, StrictInt, model_validator

from eutectic.recipe.values import Part, Text, read_number, read_text

Number = Annotated[int | float, PlainValidator(read_number)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**31)]


def _by_model(raw: object) -> object:
    """One thing for all models, or a mapping with one a model."""
    return raw if isinstance(raw, Mapping) else {"*": raw}


#: A reference for all models (under `*`), or one a model by its name.
References = Annotated[Mapping[Text, Annotated[str, PlainValidator(read_text)]], BeforeValidator(_by_model)]
Counts = Annotated[Mapping[Text, Count], BeforeValidator(_by_model)]


class Head(Part):
    """A frozen classifier that is no part of the models: logits = scale * feature @ weight^T (+ bias).

    Attributes:
        weights: a safetensors file with `weight`, (classes, width), and perhaps `bias`; for all models, or by model.
        prompts: instead, a table with a text for each class; the base's features of them are the rows of `weight`.
        pool: the feature of a sample: the mean over its tokens, that of the first or the last one, or what the model's
            own pooler makes.
        normalize: divide features and rows of `weight` by their length, so that logits are cosines.
        scale: what logits are multiplied by.
    """

    weights: References | None = None
    prompts: References | None = None
    pool: Literal["mean", "first", "last", "pooler"] = "mean"
    normalize: StrictBool = False
    scale: Number = 1

    @model_validator(mode="after")
    def _one(self) -> "Head":
        if (self.weights is None) == (self.prompts is None):
            raise ValueError(f"expected weights or prompts, found {'neither' if self.weights is None else 'both'}")
        return self

    @property
    def files(self) -> Mapping[str, str]:
        """The files of its weights or prompts, by model."""
        return self.weights or self.prompts or {}

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        written = self.model_dump(exclude_defaults=True)
        return written | {"weights" if self.weights else "prompts": plain_by_model(self.files)}


class Calibration(Part):
    """What the models are shown, for methods that look at activations or gradients.

    Attributes:
        data: files, folders or datasets; one for all models, or by model.
        samples: how many of each model's; fewer if there are fewer.
        batch: samples that pass a model at once.
        max_length: tokens a text is cut to.
        seed: which samples are drawn; by default the first are taken.
        padding: whether padded tokens count in statistics; the published codes include them.
        text, image, label: the columns of tables.
        head: a classifier outside of the models, for gradients.
        runner: `blocks` loads one block of a model at a time, `whole` all of it; `auto` takes blocks where it can.
    """

    data: References
    samples: Counts = Field(default_factory=lambda: {"*": 256})
    batch: Count = 16
    max_length: Count = 512
    seed: Annotated[StrictInt, Field(ge=0, lt=2**63)] | None = None
    padding: Literal["exclude", "include"] = "exclude"
    text: Text = "text"
    image: Text = "image"
    label: Text | None = None
    head: Head | None = None
    runner: Literal["auto", "blocks", "whole"] = "auto"

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        written = self.model_dump(exclude_defaults=True, exclude={"head"})
        written["data"] = plain_by_model(self.data)
        if self.samples == {"*": 256}:
            written.pop("samples", None)
        else:
            written["samples"] = plain_by_model(self.samples)
        return written | ({} if self.head is None else {"head": self.head.plain()})


def plain_by_model(values: Mapping[str, Any]) -> Any:
    """Returns one value for all models as itself, others as a mapping."""
    return values["*"] if set(values) == {"*"} else dict(values)


def for_model(values: Mapping[str, Any], name: str) -> Any:
    """Returns the value for a model: its own, else that for all; None when there is neither."""
    return values.get(name, values.get("*"))
