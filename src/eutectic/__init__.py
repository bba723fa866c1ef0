"""eutectic merges models: recipes in, a merged checkpoint out.

import eutectic
recipe = eutectic.merge(["code/", "maths/"], base="base/", method="ties")
plan = eutectic.plan(recipe, memory="4 GiB")
print(plan.explain())
receipt = eutectic.run(plan, out="merged/")
"""

from importlib import import_module
from typing import TYPE_CHECKING

import eutectic.calibrate
import eutectic.plan  # noqa: F401  the same
from eutectic.about import VERSION as __version__  # noqa: N811
from eutectic.errors import (
    CalibrationError,
    CheckpointError,
    EutecticError,
    MismatchError,
    OutputError,
    OverBudget,
    RecipeError,
    UndeclaredNeed,
)

if TYPE_CHECKING:
    from eutectic.api.adapters import (
        AdapterInspection,
        ModuleUpdate,
        extract_adapter,
        fold_adapters,
        inspect_adapter,
        merge_adapters,
    )
    from eutectic.api.federated import Aggregation, aggregate
    from eutectic.api.learning import Learned, Learning, learn, plan_learning
    from eutectic.api.models import Checkpoint, Inspection, inspect, open  # noqa: A004
    from eutectic.api.recipes import Recipe, convert, merge, read, rule
    from eutectic.api.routed import Routed, smile
    from eutectic.api.runs import (
        Plan,
        Receipt,
        TensorDifference,
        Verification,
        calibrate,
        diff,
        plan,
        run,
        specialise,
        verify,
    )
    from eutectic.api.searches import Search, search_weights
    from eutectic.api.soups import Soup, greedy_soup
    from eutectic.api.statistics import Statistics, statistics
    from eutectic.api.surgery import Surgery, SurgeryPlan, plan_surgery, surgery

__all__ = [
    "AdapterInspection",
    "Aggregation",
    "CalibrationError",
    "Checkpoint",
    "CheckpointError",
    "EutecticError",
    "Inspection",
    "Learned",
    "Learning",
    "MismatchError",
    "ModuleUpdate",
    "OutputError",
    "OverBudget",
    "Plan",
    "Receipt",
    "Recipe",
    "RecipeError",
    "Routed",
    "Search",
    "Soup",
    "Statistics",
    "Surgery",
    "SurgeryPlan",
    "TensorDifference",
    "UndeclaredNeed",
    "Verification",
    "__version__",
    "aggregate",
    "calibrate",
    "convert",
    "diff",
    "extract_adapter",
    "fold_adapters",
    "greedy_soup",
    "inspect",
    "inspect_adapter",
    "learn",
    "merge",
    "merge_adapters",
    "open",
    "plan",
    "plan_learning",
    "plan_surgery",
    "read",
    "rule",
    "run",
    "search_weights",
    "smile",
    "specialise",
    "statistics",
    "surgery",
    "verify",
]

#: Where the verbs are, loaded when first used: torch takes a second, and `inspect` and `--version` need none of it.
_HOMES = {
    "adapters": (
        "AdapterInspection",
        "ModuleUpdate",
        "extract_adapter",
        "fold_adapters",
        "inspect_adapter",
        "merge_adapters",
    ),
    "federated": ("Aggregation", "aggregate"),
    "learning": ("Learned", "Learning", "learn", "plan_learning"),
    "models": ("Checkpoint", "Inspection", "inspect", "open"),
    "routed": ("Routed", "smile"),
    "recipes": ("Recipe", "convert", "merge", "read", "rule"),
    "runs": (
        "Plan",
        "Receipt",
        "TensorDifference",
        "Verification",
        "calibrate",
        "diff",
        "plan",
        "run",
        "specialise",
        "verify",
    ),
    "searches": ("Search", "search_weights"),
    "soups": ("Soup", "greedy_soup"),
    "statistics": ("Statistics", "statistics"),
    "surgery": ("Surgery", "SurgeryPlan", "plan_surgery", "surgery"),
}


def __getattr__(name: str) -> object:
    """Loads a verb."""
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'eutectic' has no attribute {name!r}")
    found: object = getattr(import_module(f"eutectic.api.{home}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


# A package binds its parts' names when they are first imported. The parts `calibrate` and `plan` have been, above,
# so that they will not take the place of the verbs later; their names are the verbs'.
del globals()["calibrate"], globals()["plan"]
