"""eutectic merges models: recipes in, a merged checkpoint or adapter out.

    import eutectic
    recipe = eutectic.merge(["code/", "maths/"], base="base/", method="ties")
    plan = eutectic.plan(recipe, memory="4 GiB")
    print(plan.explain())
    receipt = eutectic.run(plan, out="merged/")
"""

from eutectic.about import VERSION as __version__
from eutectic.api import (
    Checkpoint,
    Inspection,
    Plan,
    Receipt,
    Recipe,
    TensorDifference,
    Verification,
    diff,
    inspect,
    merge,
    open,
    plan,
    read,
    rule,
    run,
    verify,
)
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

__all__ = [
    "CalibrationError",
    "Checkpoint",
    "CheckpointError",
    "EutecticError",
    "Inspection",
    "MismatchError",
    "OutputError",
    "OverBudget",
    "Plan",
    "Receipt",
    "Recipe",
    "RecipeError",
    "TensorDifference",
    "UndeclaredNeed",
    "Verification",
    "__version__",
    "diff",
    "inspect",
    "merge",
    "open",
    "plan",
    "read",
    "rule",
    "run",
    "verify",
]
