"""What is made from the declarations is fresh."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.docs.pages import ROOT, blocks

GENERATE = ["scripts/generate.py", "--check"]


def test_generated_files_are_fresh() -> None:
    """README's table, the pages of the methods and the schema say what the declarations say."""
    done = subprocess.run([sys.executable, *GENERATE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_stale_files_are_found(tmp_path: Path) -> None:
    """An edited page, a page of no method, and a missing one are each named."""
    for folder in ("scripts", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copytree(ROOT / "src" / "eutectic" / "methods", tmp_path / "src" / "eutectic" / "methods")
    shutil.copy(ROOT / "README.md", tmp_path)
    pages = tmp_path / "docs" / "methods"
    (pages / "ties.md").write_text("# ties\n")
    (pages / "magic.md").write_text("# magic\n")
    (pages / "dare.md").unlink()
    done = subprocess.run([sys.executable, *GENERATE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    named = [line.split(" ")[0] for line in done.stdout.splitlines()]
    assert sorted(named) == ["docs/methods/dare.md", "docs/methods/magic.md", "docs/methods/ties.md"]


def test_pages_write_every_parameter_out() -> None:
    """The recipe of a method's page names each parameter that its table lists."""
    schema = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert schema["$defs"]
    for page in (ROOT / "docs" / "methods" / f"{name}.md" for name in ("ties", "task_arithmetic", "model_stock")):
        recipe = YAML(typ="safe").load(next(each.text for each in blocks(page) if each.file))
        rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
        written = recipe["method"][page.stem] if isinstance(recipe["method"], dict) else {}
        assert list(written) == [row.split("`")[1] for row in rows]
