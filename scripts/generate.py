"""Writes what is made from the declarations: tables and pages of methods, and the JSON Schema of recipes.

`python scripts/generate.py` writes the files; with `--check` it names those that are not fresh, and fails.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from eutectic.methods import METHODS
from eutectic.methods.page import declarations, markdown, table
from eutectic.recipe.schema import json_schema

ROOT = Path(__file__).parent.parent
START, END = "<!-- methods -->\n", "<!-- /methods -->"
ZOO = """\
# The methods

One file, one paper. A method is a function of a site and its parameters, with declarations beside it; the schedule,
the recipe check, the command line and the tests are derived from them. [CONTRIBUTING](../../../CONTRIBUTING.md) says
how to add one. This table is made from the declarations by `scripts/generate.py`.

{table}

Laws are tested over every method: those kept on samples, those broken by a counter-example. Besides, every method
that sees elements gives the same bytes in slices as in one piece, a fused kernel agrees with the function beside it,
and the seed matters if and only if the method says so.

{declarations}
"""
PAGES = """\
# Methods

{table}
"""


def files() -> Mapping[Path, str]:
    """Every generated file with its content."""
    own = [method for method in METHODS.values() if method.function.__module__.startswith("eutectic.")]
    before, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(START)
    after = rest[rest.index(END) :]
    made = {
        ROOT / "README.md": f"{before}{START}{table(own, 'docs/methods')}\n{after}",
        ROOT / "docs" / "methods" / "index.md": PAGES.format(table=table(own, ".")),
        ROOT / "docs" / "recipe.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        ROOT / "src" / "eutectic" / "methods" / "README.md": ZOO.format(
            table=table(own, "../../../docs/methods"), declarations=declarations(own)
        ),
    }
    return made | {ROOT / "docs" / "methods" / f"{method.name}.md": markdown(method) for method in own}


def main() -> None:
    """Writes or checks."""
    made = files()
    kept = set((ROOT / "docs" / "methods").glob("*.md"))
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    gone = sorted(kept - set(made))
    if "--check" in sys.argv:
        for path in [*stale, *gone]:
            print(f"{path.relative_to(ROOT)} is not fresh: run python scripts/generate.py")
        sys.exit(bool(stale or gone))
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")
    for path in gone:
        path.unlink()


if __name__ == "__main__":
    main()
