"""mergekit's methods, each as a chain of ours: which parameter is which, what it fixes, and where it traps.

Every entry has two readings. The exact one computes what mergekit 0.1.5 computes; the mended one is what the paper
says and most who wrote the recipe meant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from eutectic.recipe.mergekit.settings import Kind, Scalar

#: What a yes or no of mergekit's is called here: the words for false and for true.
Words = tuple[str, str]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method.

    Attributes:
        name: mergekit's.
        to: ours, `step.parameter`; None when it changes nothing.
        kind: what its values are.
        per: one value for all models, one for each input, or one for each input but the base.
        default: mergekit's; None when it must be given.
        words: what false and true are here, where they are words.
        mended: the same for the mended reading, where it differs.
        limits: beyond these mergekit goes on as at them.
        unless: another parameter which, where it is true, makes this one mean nothing; ours is `off` there.
        too: other parameters of ours that mergekit gives the same value; the mended reading does not.
    """

    name: str
    to: str | None
    kind: Kind = "float"
    per: Literal["all", "input", "other"] = "all"
    default: Scalar | None = None
    words: Words | None = None
    mended: Words | None = None
    limits: tuple[float, float] | None = None
    unless: str | None = None
    off: str = ""
    too: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trap:
    """What surprises in a method, and what the mended reading has instead.

    Attributes:
        said: what mergekit does, and so do we.
        mended: what changes; empty where nothing does, and it is only said.
        about: the parameter it is about: it traps where that has a value other than `harmless`.
        harmless: that value.
    """

    said: str
    mended: str = ""
    about: str | None = None
    harmless: Scalar | None = None


@dataclass(frozen=True)
class Step:
    """One step of our chain: what is fixed in it, exactly and mended, and what more where there is a base."""

    method: str
    exact: Mapping[str, Any]
    mended: Mapping[str, Any]
    based: Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One of mergekit's methods.

    Attributes:
        chain: ours, in order.
        parameters: all that it reads.
        base: whether it must have a base, may have one, or takes it as one more model.
        others: fewest and most models, the base not counted unless it is one more model.
        traps: what surprises in it.
    """

    chain: tuple[Step, ...]
    parameters: tuple[Parameter, ...]
    base: Literal["required", "optional", "ignored"]
    others: tuple[int, int | None] = (1, None)
    traps: tuple[Trap, ...] = ()


def _step(
    method: str,
    exact: Mapping[str, Any] | None = None,
    mended: Mapping[str, Any] | None = None,
    based: Mapping[str, Any] | None = None,
) -> Step:
    return Step(method, exact or {}, mended or {}, based or {})


_MASK = Parameter("int8_mask", None, "bool", default=False)
_NO_DENSITY = Trap("density is given nowhere, so nothing is dropped", about="density")
_PLUS = "a vote of exactly 0 elects plus"
_L1 = Trap(
    "rescale restores each tensor's sum of magnitudes, where the paper divides by the kept share",
    "what is kept is divided by the share kept",
    "rescale",
    False,
)


def _family(
    sparsify: Step | None,
    *,
    elect: bool,
    normalize: bool,
    rescale: bool,
    own: tuple[Parameter, ...] = (),
    words: tuple[Words, Words] = (("none", "l1"), ("none", "l1")),
    traps: tuple[Trap, ...] = (),
) -> Method:
    """The family of differences from the base: drop some, weigh, perhaps elect a sign, add up, perhaps divide."""
    combine = "ties" if elect else "task_arithmetic"
    last = _step("ties", {"density": 1, "tie": "plus"}, {"density": 1}) if elect else _step("task_arithmetic")
    share = ("sum", "weight")
    parameters = (
        _MASK,
        Parameter("normalize", f"{combine}.{'average' if elect else 'normalize'}", "bool", default=normalize,
                  words=share if elect else None),
        Parameter("rescale", f"{sparsify.method}.rescale" if sparsify else None, "bool", default=rescale,
                  words=words[0], mended=words[1]),
        Parameter("lambda", f"{combine}.scale", default=1.0),
        Parameter("weight", f"{combine}.weight", per="other"),
        Parameter("density", f"{sparsify.method}.density" if sparsify else None, per="other", default=1.0,
                  limits=(0.0, 1.0)),
        *own,
    )  # fmt: skip
    steps = (sparsify, last) if sparsify else (last,)
    plus = (Trap(_PLUS, "it elects nobody"),) if elect else ()
    return Method(steps, parameters, "required", traps=traps + plus)


_TRIM = _step("trim", {"scope": "tensor", "count": "exact"})
_PER_TENSOR = Trap(
    "each tensor is trimmed by a cut of its own, where the paper has one for the whole model",
    "each model is trimmed by one cut over all its tensors",
    "density",
    1.0,
)
_DIVIDE: tuple[Words, Words] = (("none", "l1"), ("none", "inverse"))
_BREADCRUMBS = _step("breadcrumbs", {"scope": "tensor", "first": "density"})
_GAMMA = (Parameter("gamma", "breadcrumbs.gamma", per="other", default=0.01, limits=(0.0, 1.0)),)
_WHOLE = Trap(
    "shares are counted in the whole tensor, where the authors' code counts them in each row",
    "shares are counted in each row",
    "density",
    1.0,
)
_EPSILON = (Parameter("epsilon", "della.epsilon", per="other", default=0.15),)
_DELTAS = {"of": "deltas"}

METHODS: Mapping[str, Method] = {
    "linear": Method(
        (_step("linear"),),
        (
            Parameter("weight", "linear.weight", per="input"),
            Parameter("normalize", "linear.normalize", "bool", default=True),
        ),
        "ignored",
    ),
    "slerp": Method((_step("slerp"),), (Parameter("t", "slerp.t"),), "required", (1, 1)),
    "passthrough": Method(
        (_step("passthrough"),),
        (Parameter("scale", "passthrough.scale", per="input", default=1.0),),
        "ignored",
        (1, 1),
    ),
    "model_stock": Method(
        (_step("model_stock", {"angle": "cosine", "floor": 1e-6}),),
        (Parameter("filter_wise", "model_stock.rows", "bool", default=False),),
        "required",
        (2, None),
        (
            Trap(
                "products of norms below 1e-6 count as 1e-6, which pulls small tensors (norms) to the base",
                "they count as they are",
            ),
        ),
    ),
    "task_arithmetic": _family(None, elect=False, normalize=False, rescale=False),
    "ties": _family(_TRIM, elect=True, normalize=True, rescale=False, traps=(_NO_DENSITY, _PER_TENSOR)),
    "dare_linear": _family(
        _step("dare"), elect=False, normalize=False, rescale=True, words=_DIVIDE, traps=(_NO_DENSITY, _L1)
    ),
    "dare_ties": _family(
        _step("dare"), elect=True, normalize=False, rescale=True, words=_DIVIDE, traps=(_NO_DENSITY, _L1)
    ),
    "breadcrumbs": _family(
        _BREADCRUMBS, elect=False, normalize=False, rescale=False, own=_GAMMA, traps=(_NO_DENSITY, _WHOLE)
    ),
    "breadcrumbs_ties": _family(
        _BREADCRUMBS, elect=True, normalize=False, rescale=False, own=_GAMMA, traps=(_NO_DENSITY, _WHOLE)
    ),
    "della": _family(
        _step("della"),
        elect=True,
        normalize=True,
        rescale=True,
        own=_EPSILON,
        words=_DIVIDE,
        traps=(_NO_DENSITY, _L1),
    ),
    "della_linear": _family(
        _step("della"),
        elect=False,
        normalize=False,
        rescale=True,
        own=_EPSILON,
        words=_DIVIDE,
        traps=(_NO_DENSITY, _L1),
    ),
    "nuslerp": Method(
        (_step("nuslerp", based=_DELTAS),),
        (
            Parameter("weight", "nuslerp.weight", per="other"),
            Parameter("nuslerp_flatten", None, "bool", default=True),
            Parameter(
                "nuslerp_row_wise",
                "nuslerp.scope",
                "bool",
                default=False,
                words=("row", "column"),
                mended=("column", "row"),
                unless="nuslerp_flatten",
                off="tensor",
            ),
        ),
        "optional",
        (2, 2),
        (
            Trap(
                "nuslerp_row_wise: true takes columns and false rows, the reverse of what is documented",
                "true takes rows and false columns",
                "nuslerp_flatten",
                True,
            ),
        ),
    ),
    "multislerp": Method(
        (_step("multislerp", based=_DELTAS),),
        (
            Parameter("weight", "multislerp.weight", per="other"),
            Parameter("normalize_weights", "multislerp.normalize", "bool", default=True),
            Parameter("eps", "multislerp.eps", default=1e-8),
        ),
        "optional",
    ),
    "karcher": Method(
        (_step("karcher"),),
        (
            Parameter("max_iter", "karcher.max_iter", "int", default=10),
            Parameter("tol", "karcher.tol", default=1e-5, too=("karcher.floor",)),
        ),
        "ignored",
        traps=(
            Trap("models whose norm is at most tol count as zeros (small norms and biases)", "they count as they are"),
        ),
    ),
    "nearswap": Method(
        (_step("nearswap"),), (Parameter("t", "nearswap.t", limits=(0.0, float("inf"))),), "required", (1, 1)
    ),
    "arcee_fusion": Method((_step("arcee_fusion"),), (), "required", (1, 1)),
    "sce": Method(
        (_step("sce", {"mask": "deltas", "floor": 1e-6}),),
        (_MASK, Parameter("select_topk", "sce.select_topk", default=1.0, limits=(0.0, 1.0))),
        "required",
        traps=(
            Trap(
                "models weigh alike where their mean squares add up to less than 1e-6, as fine-tunes' often do",
                "they weigh by their mean squares",
            ),
            Trap(
                "what is not selected is dropped, where the authors select for the weights only",
                "what is not selected is merged too",
                "select_topk",
                1.0,
            ),
        ),
    ),
    "ram": Method((_step("ram"),), (Parameter("epsilon", "ram.epsilon", default=1e-5),), "required"),
    "ramplus_tl": Method(
        (_step("ram", {"scope": "tensor"}),),
        (
            Parameter("r", "ram.r", default=0.1),
            Parameter("alpha", "ram.alpha", default=0.2),
            Parameter("epsilon", "ram.epsilon", default=1e-5),
        ),
        "required",
        traps=(Trap("deltas are counted tensor by tensor", "they are counted over the model, as in the paper"),),
    ),
}
