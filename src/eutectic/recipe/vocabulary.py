"""What a recipe says of vocabularies: the output's tokens, and the rows of those that a model does not have."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StrictBool, StrictInt, model_validator

from eutectic.recipe.values import LONGEST_TEXT, Part, Text, read_number, show

#: Tokenizers that are made of the inputs'; any other word of `vocabulary.tokenizer` is `base` or a model.
JOINED = ("union", "intersection", "extended")

Rule = Literal["shared", "mean", "zero", "nearest", "interpolate", "omp", "project", "subword"]


def _read_token(raw: object) -> str:
    """Tokens may be blank or unprintable, unlike other texts of a recipe."""
    if not isinstance(raw, str) or not raw:
        raise ValueError(f"expected a token as text, found {show(raw)}")
    if len(raw) > LONGEST_TEXT:
        raise ValueError(f"expected a token of at most {LONGEST_TEXT} characters, found {len(raw)}")
    return raw


def _positive(read: float) -> float:
    if read < 0:
        raise ValueError(f"expected a number from 0, found {read}")
    return read


Token = Annotated[str, PlainValidator(_read_token)]
Count = Annotated[StrictInt, Field(ge=1, lt=10**6)]


class Fill(Part):
    """How a row is made that a model lacks: written `mean`, or with options `{omp: {k: 64}}`.

    Attributes:
        rule: `shared`: the base's row, else the mean of all models that have one; the same for every model.
            `mean`: the mean of the model's own rows. `zero`: zeros. The others predict it in the model's own space
            from tokens that model and donor share (the donor is the first of `donor`, base and models that has it):
            `nearest`: the row of the shared token nearest to it; `interpolate`: a combination of the `k` nearest;
            `omp`: a sparse combination of `k` found by orthogonal matching pursuit; `project`: a linear map.
            `subword`: the model's own rows of the pieces into which its tokenizer splits the token.
        k: how many shared tokens at most; 5 for `interpolate`, 64 for `omp`.
        weights: of `interpolate`: by distance, or least squares whose weights sum to one (`barycentric`) or need not.
        distance: by which `nearest` and `interpolate` choose.
        map: of `project`; see `numerics.transplant`.
        ridge: of the map `ridge`: its penalty.
        pieces: of `subword`: their `mean`, their `sum`, or one of the `ends`: the last for an embedding, the first for
            a head.
    """

    rule: Rule = "shared"
    k: Count | None = None
    weights: Literal["distance", "barycentric", "least_squares"] = "distance"
    distance: Literal["euclidean", "cosine"] = "euclidean"
    map: Literal["least_squares", "ridge", "affine", "procrustes", "scaled", "landmark"] = "procrustes"
    ridge: Annotated[float, BeforeValidator(read_number), AfterValidator(_positive)] = 0.1

    pieces: Literal["mean", "sum", "ends"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        if isinstance(raw, str):
            return {"rule": raw}
        if not isinstance(raw, Mapping) or "rule" in raw or not raw:
            return raw
        if len(raw) != 1:
            raise ValueError(f"expected one rule, as in {{omp: {{k: 64}}}}; found {len(raw)} keys")
        name, options = next(iter(raw.items()))
        own = OPTIONS.get(str(name), ())
        wrong = next((str(key) for key in options or () if key not in own), None)
        if wrong is not None:
            listed = ", ".join(own) or "none"
            raise ValueError(f"unknown option {show(wrong)} of the fill {name}; it has {listed}")
        return {"rule": name, **(options or {})}

    @property
    def predicts(self) -> bool:
        """Whether rows are computed from whole matrices of the model and a donor."""
        return self.rule in ("nearest", "interpolate", "omp", "project")

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes."""
        options = self.model_dump(exclude_defaults=True, exclude={"rule"})
        return {self.rule: options} if options else self.rule


#: The options of each rule that has some.
OPTIONS: dict[str, tuple[str, ...]] = {
    "nearest": ("distance",),
    "interpolate": ("k", "weights", "distance"),
    "omp": ("k",),
    "project": ("map", "ridge"),
    "subword": ("pieces",),
}


class TokenSource(Part):
    """Where one token's row comes from: written `zero`, a model's name, or `{model: code, token: "</s>"}`.

    Attributes:
        model: whose row; None means zeros.
        token: another token of that model; the same one if None.
        id: the token's number in that model, instead of its text.
        force: also for the models that have a row of their own.
    """

    model: Text | None = None
    token: Token | None = None
    id: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None
    force: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        if isinstance(raw, str):
            return {} if raw == "zero" else {"model": raw}
        if not isinstance(raw, Mapping):
            return raw
        raw = dict(raw)
        if "zero" in raw and raw.pop("zero") is not True:
            raise ValueError("expected zero: true, or a model")
        if raw.get("model") is None and (raw.get("token") is not None or raw.get("id") is not None):
            raise ValueError("expected the model whose token this is, found none")
        if raw.get("token") is not None and raw.get("id") is not None:
            raise ValueError("expected token or id, one of them, found both")
        return raw

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes."""
        changed = self.model_dump(exclude_defaults=True)
        if not changed:
            return "zero"
        if self.model is None:
            return {"zero": True, **changed}
        return self.model if set(changed) == {"model"} and self.model != "zero" else changed


class Vocabulary(Part):
    """What becomes of the tokens where the models' vocabularies differ.

    A word (`error`, `truncate`, `base`) treats the rows as numbered; a mapping matches them token by token.

    Attributes:
        rows: the word.
        tokenizer: the output's tokens: of `base` or of one model; `extended`: the base's and the added tokens of the
            others; `union`: all; `intersection`: the base's that all models have.
        donor: instead of `tokenizer`, another model, whose tokenizer is taken and whose embeddings guide the fill.
        fill: how a row is made that a model lacks.
        tokens: where the rows of single tokens come from.
        match: whether tokens are the same when their text is, or also when only word marks and the spelling of special
            tokens differ (`normalised`); the second serves tokenizers of different families.
        prefixes: a token that a model lacks takes the row of its longest beginning that the model has.
        pad_to_multiple_of: rows are added up to a multiple of this; each is the mean of the model's others.
    """

    rows: Literal["error", "truncate", "base"] = "error"
    tokenizer: Text | None = None
    donor: Text | None = None
    fill: Fill = Fill()
    tokens: Mapping[Token, TokenSource] = Field(default_factory=dict)
    match: Literal["exact", "normalised"] = "exact"
    prefixes: StrictBool = False
    pad_to_multiple_of: Annotated[StrictInt, Field(ge=1, lt=10**6)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, raw: object) -> object:
        if isinstance(raw, str):
            return {"rows": raw}
        if isinstance(raw, Mapping) and raw and "rows" not in raw:
            if raw.get("tokenizer") is not None and raw.get("donor") is not None:
                raise ValueError("expected tokenizer or donor, one of them, found both")
            if raw.get("tokenizer") is None and raw.get("donor") is None:
                return {**raw, "tokenizer": "extended"}
        return raw

    @property
    def by_token(self) -> bool:
        """Whether rows are matched token by token."""
        return self.tokenizer is not None or self.donor is not None

    def plain(self) -> str | dict[str, Any]:
        """Returns what a recipe writes."""
        if not self.by_token:
            return self.rows
        written: dict[str, Any] = self.model_dump(exclude_defaults=True, exclude={"fill", "tokens"})
        written |= {} if self.fill == Fill() else {"fill": self.fill.plain()}
        return written | ({"tokens": {key: each.plain() for key, each in self.tokens.items()}} if self.tokens else {})
