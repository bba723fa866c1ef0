"""The rows of the table: what a recipe says, and which of its numbers is chosen on validation rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Parts = Mapping[str, Any]

TRIM = {"trim": {"density": 0.2}}
MASK = {"tatr": {"ratio": 0.01}}
LAMBDAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
SCALES = (0.7, 1.0, 1.3)
#: Fewer and shorter than the paper's 64 anchors of 1200 steps and 100 epochs.
ANCHORS = {"count": 32, "steps": 40, "epochs": 20, "batch": 64}
#: Steps of Adam on one batch of 16 a task; the paper makes 500 of two.
LEARNING = {"steps": 60, "batches": 1, "rate": 0.01}


@dataclass(frozen=True)
class Given:
    """What a row's recipe is made of.

    Attributes:
        number: the one that is tried, or that was chosen.
        chosen: by row, the numbers of the rows before.
        count: of experts.
    """

    number: float
    chosen: Mapping[str, float]
    count: int


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        name: as the table has it.
        parts: keys of the recipe, beside models, base and data.
        numbers: tried on validation rows; the best is what the row shows. None where there is nothing to choose.
        data: samples a task that it looks at.
        drawn: whether it depends on a seed or a sample, and is repeated for its spread.
        then: what follows or precedes the merge: learning of its weights, or surgery on its features.
        by: what has a learned weight of its own.
        suites: the experts it can merge.
        note: what the table says of it.
    """

    name: str
    parts: Callable[[Given], Parts]
    numbers: tuple[float, ...] = ()
    data: int = 0
    drawn: bool = False
    then: Literal["learn", "surgery"] | None = None
    by: Literal["model", "tensor"] = "tensor"
    suites: tuple[str, ...] = ("full", "lora", "vision")
    note: str = ""


def method(*steps: Any) -> Callable[[Given], Parts]:
    """A recipe of these steps, the same for every number."""
    return lambda _: {"method": list(steps)}


def weighed(*before: Any) -> Callable[[Given], Parts]:
    """Steps, then task arithmetic with the number as weight."""
    return lambda given: {"method": [*before, {"task_arithmetic": {"weight": given.number}}]}


def scaled(name: str, *before: Any, **settings: Any) -> Callable[[Given], Parts]:
    """Steps, then a method with the number as scale."""
    return lambda given: {"method": [*before, {name: {**settings, "scale": given.number}}]}


def refined(parts: Callable[[Given], Parts], row: str | None = None, **settings: Any) -> Callable[[Given], Parts]:
    """Anchors on what another row merged, with the number chosen there."""

    def made(given: Given) -> Parts:
        number = given.number if row is None else given.chosen[row]
        return {**parts(Given(number, given.chosen, given.count)), "anchors": {**ANCHORS, **settings}}

    return made


def nan_of_deltas(given: Given) -> Parts:
    """The fixed 0.3 shared out by the norms of the deltas."""
    source = {"nan": {"of": "delta", "scale": round(0.3 * given.count, 6)}}
    return {"method": [{"task_arithmetic": {"weight": source}}]}


def from_base(given: Given) -> Parts:
    """Anchors that move the base itself, with the number as rate; what blocks do not hold stays the base's."""
    anchors = {**ANCHORS, "start": "base", "rate": given.number}
    return {"method": [{"task_arithmetic": {"weight": 0.3}}], "anchors": anchors}


def wudi(given: Given) -> Parts:
    """WUDI, with the number as rate."""
    return {"method": [{"wudi": {"rate": given.number}}]}


TA = "task arithmetic"
TEXT = ("full", "lora")
TSV = "TSV-M, scale"
WUDI = "WUDI, rate"
TA_ON = {"task_arithmetic": {"weight": 0.3}}

#: Dearest last, since what is not finished is left out.
ROWS = (
    Row("average", method("linear")),
    Row("task arithmetic 0.3", method(TA_ON)),
    Row(TA, weighed(), LAMBDAS),
    Row("TIES 20 %, scale 1", method({"ties": {"density": 0.2}})),
    Row("TIES 20 %, scale", scaled("ties", density=0.2), SCALES),
    Row("DARE 50 %", weighed({"dare": {"density": 0.5}}), LAMBDAS[:4], drawn=True),
    Row("TSV-M, scale 1", method("tsv_m")),
    Row(TSV, scaled("tsv_m"), SCALES),
    Row("Iso-C, scale 1", method("iso_c")),
    Row("Iso-C, scale", scaled("iso_c"), SCALES),
    Row("NAN", method({"task_arithmetic": {"weight": "nan"}})),
    Row("NAN of deltas, sum as of 0.3", nan_of_deltas),
    Row("TATR zero-shot", weighed(MASK), LAMBDAS[1:5]),
    Row("TIES + TATR", scaled("ties", TRIM, "elect", MASK, density=1.0), SCALES),
    Row("RobustMerge (code)", method("robustmerge"), suites=("lora",)),
    Row("RobustMerge (paper)", method({"robustmerge": {"variant": "paper"}}), suites=("lora",)),
    Row("RobustMerge (paper), scale", scaled("robustmerge", variant="paper"), (1.0, 3.0, 4.0), suites=("lora",)),
    Row("RegMean 0.9", method({"regmean": {"alpha": 0.9}}), data=64, drawn=True),
    Row(
        "RegMean 0.9, NAN weights",
        method({"regmean": {"alpha": 0.9, "weight": "nan"}}),
        data=64,
        drawn=True,
    ),
    Row("LOT, scale", scaled("lot"), (1.0, 1.2, 1.5), data=64, drawn=True),
    Row("CAT", weighed({"cat": {"directions": 2}}), LAMBDAS[1:5], data=3, drawn=True),
    Row("RegMean++ 0.9", method({"regmean": {"alpha": 0.9, "prefix": "merged"}}), data=64, drawn=True, suites=TEXT),
    Row(
        "TATR gradients",
        weighed({"tatr": {"ratio": 0.01, "sensitivity": "gradients"}}),
        LAMBDAS[1:5],
        data=64,
        drawn=True,
    ),
    Row("Fisher", method({"fisher": {"kind": "sampled"}}), data=64, drawn=True),
    Row(
        "surgery on task arithmetic",
        lambda given: {"method": [{"task_arithmetic": {"weight": given.chosen[TA]}}]},
        data=64,
        drawn=True,
        then="surgery",
        suites=TEXT,
    ),
    Row("FDA from the base", from_base, (1e-4, 1e-3), drawn=True, suites=TEXT),
    Row("FDA on task arithmetic", refined(weighed(), TA), drawn=True, suites=TEXT),
    Row("FDA on TSV-M", refined(scaled("tsv_m"), TSV), drawn=True, suites=TEXT),
    Row("AdaMerging by tensor", method(TA_ON), data=256, drawn=True, then="learn", suites=TEXT),
    Row("WUDI 1e-5", method("wudi")),
    Row(WUDI, wudi, (3e-5, 1e-4)),
    Row("FDA on WUDI", refined(wudi, WUDI), drawn=True, suites=TEXT),
    Row(
        "AdaMerging++",
        method(TRIM, {"elect": {"tie": "majority"}}, TA_ON),
        data=256,
        drawn=True,
        then="learn",
        suites=TEXT,
    ),
    Row("AdaMerging + TATR", method(MASK, TA_ON), data=256, drawn=True, then="learn", suites=TEXT),
    Row("AdaMerging by model", method(TA_ON), data=256, drawn=True, then="learn", by="model", suites=TEXT),
)
