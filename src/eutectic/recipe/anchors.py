"""What a recipe says of functional dual anchors: how they are made, and how the merge is refined by them."""

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, StrictInt

from eutectic.recipe.values import Part, read_number

Positive = Annotated[int | float, PlainValidator(read_number), Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**31)]


class Anchors(Part):
    """How blocks are solved from anchors, which are inputs whose gradient points along a model's task vector.

    Attributes:
        start: what is refined: the `base`; what the recipe's method `merged`; or the base plus every model's task
            vector times its weight in task arithmetic, each with coefficients of its own (`models`).
        unit: a whole `block`, or its feed-forward part `mlp` alone, on single vectors.
        count: anchors a block and model.
        tokens: of an anchor, where models take text; images have as many as the model makes of them.
        init: anchors start from rows of the model's `weights`, or are `gaussian` noise.
        sigma: the scale of the noise.
        align: the distance of outputs whose gradient is aligned.
        steps: of construction.
        step_size: the learning rate of construction.
        distance: that of outputs in adaptation.
        epochs: of adaptation.
        rate: the learning rate of adaptation; by default 1e-5 from the base and 1e-2 of coefficients.
        batch: anchors a step of adaptation.
    """

    start: Literal["merged", "base", "models"] = "merged"
    unit: Literal["block", "mlp"] = "block"
    count: Count = 64
    tokens: Count = 5
    init: Literal["weights", "gaussian"] = "weights"
    sigma: Positive = 0.01
    align: Literal["cos", "l2", "l1"] = "cos"
    steps: Count = 1200
    step_size: Positive = 0.01
    distance: Literal["cos", "l2", "l1"] = "cos"
    epochs: Count = 100
    rate: Positive | None = None
    batch: Count = 128

    @property
    def pace(self) -> float:
        """The learning rate of adaptation."""
        return float(self.rate if self.rate is not None else 1e-5 if self.start == "base" else 1e-2)

    def making(self) -> dict[str, Any]:
        """Returns what anchors depend on; the rest is about adaptation."""
        noise = {"sigma": float(self.sigma)} if self.init == "gaussian" else {}
        own = {"unit": self.unit, "count": self.count, "init": self.init, "align": self.align, "steps": self.steps}
        tokens = {"tokens": self.tokens} if self.unit == "block" else {}
        return own | tokens | noise | {"step_size": float(self.step_size)}

    def plain(self) -> dict[str, Any]:
        """Returns what a recipe writes."""
        return self.model_dump(exclude_defaults=True)
