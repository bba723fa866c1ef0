"""What the papers claim that these rows can bear on: one row does better than another."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        source: the method whose paper makes it.
        text: what it says.
        better: the row that should do better.
        than: the row it is compared with.
        by: what is compared: shares of the experts' accuracy, or accuracy on the unseen task.
    """

    source: str
    text: str
    better: str
    than: str
    by: Literal["shares", "unseen"] = "shares"


TA, TIES, TSV, WUDI = "task arithmetic", "TIES 20 %, scale", "TSV-M, scale", "WUDI, rate"
ROBUST = "RobustMerge (paper), scale"

CLAIMS = (
    Claim("FDA", "from the base, better than task arithmetic", "FDA from the base", TA),
    Claim("FDA", "refines task arithmetic", "FDA on task arithmetic", TA),
    Claim("FDA", "refines TSV-M", "FDA on TSV-M", TSV),
    Claim("FDA", "refines WUDI", "FDA on WUDI", WUDI),
    Claim("TATR", "a mask before task arithmetic helps", "TATR gradients", TA),
    Claim("TATR", "also without data", "TATR zero-shot", TA),
    Claim("TATR", "also before TIES", "TIES + TATR", TIES),
    Claim("TATR", "also before AdaMerging", "AdaMerging + TATR", "AdaMerging by tensor"),
    Claim("CAT", "better than task arithmetic", "CAT", TA),
    Claim("LOT", "better than task arithmetic", "LOT, scale", TA),
    Claim("AdaMerging", "better than task arithmetic", "AdaMerging by tensor", TA),
    Claim("AdaMerging", "by tensor better than by model", "AdaMerging by tensor", "AdaMerging by model"),
    Claim("AdaMerging", "trimmed and elected first (++) better", "AdaMerging++", "AdaMerging by tensor"),
    Claim("Surgery", "adapters of features help", "surgery on task arithmetic", TA),
    Claim("NAN", "better than a fixed 0.3", "NAN", "task arithmetic 0.3"),
    Claim(
        "NAN",
        "of deltas, better than a fixed 0.3 of the same sum",
        "NAN of deltas, sum as of 0.3",
        "task arithmetic 0.3",
    ),
    Claim("RegMean", "better than the average", "RegMean 0.9", "average"),
    Claim("NAN", "weights RegMean better than evenly", "RegMean 0.9, NAN weights", "RegMean 0.9"),
    Claim("RegMean++", "better than RegMean", "RegMean++ 0.9", "RegMean 0.9"),
    Claim("Fisher", "better than the average", "Fisher", "average"),
    Claim("RobustMerge", "better than task arithmetic, seen tasks", ROBUST, TA),
    Claim("RobustMerge", "better than TIES, seen tasks", ROBUST, TIES),
    Claim("RobustMerge", "better than DARE, seen tasks", ROBUST, "DARE 50 %"),
    Claim("RobustMerge", "better than task arithmetic, unseen task", ROBUST, TA, "unseen"),
    Claim("RobustMerge", "better than TIES, unseen task", ROBUST, TIES, "unseen"),
    Claim("RobustMerge", "better than DARE, unseen task", ROBUST, "DARE 50 %", "unseen"),
    Claim("TSV-M", "better than task arithmetic", TSV, TA),
    Claim("WUDI", "better than task arithmetic", WUDI, TA),
)
