"""Every code block of README and docs runs as it is printed."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from eutectic.cli import main
from tests.docs.pages import PAGES, ROOT, Block, blocks, write_models
from tests.docs.speakers import write_speakers


def run_shell(block: Block, page: str) -> None:
    """Runs the `eutectic` commands of a block in the current folder."""
    for command in block.commands:
        with pytest.raises(SystemExit) as stop:
            main(shlex.split(command)[1:])
        assert stop.value.code == 0, f"{page}:{block.line}: `{command}` failed"


def run(block: Block, page: str, names: dict[str, Any]) -> None:
    """Runs one block: shell commands, Python in the page's namespace; a shown file is written and parsed."""
    if block.language in {"sh", "bash", "console"}:
        run_shell(block, page)
    elif block.language == "python":
        exec(compile("\n" * block.line + block.text, page, "exec"), names)
    elif block.language in {"yaml", "json"}:
        (json.loads if block.language == "json" else YAML(typ="safe").load)(block.text)
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
    else:
        assert block.language == "text", f"{page}:{block.line}: nothing checks a block of {block.language}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in order, in one folder with small models of the names that pages use."""
    write_models(tmp_path)
    if any("poems" in block.text for block in blocks(page)):
        write_speakers(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        run(block, str(page.relative_to(ROOT)), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every link of a page to a file of the repository finds it."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_blocks_are_read_as_printed(tmp_path: Path) -> None:
    """The reader finds languages, file names, line numbers and continued commands."""
    page = tmp_path / "page.md"
    page.write_text(
        "x\n\n```yaml\n# a.yaml\nseed: 0\n```\n\n```sh\nmake demo\neutectic plan a.yaml \\\n  --json  # why\n```\n"
    )
    recipe, shell = blocks(page)
    assert (recipe.language, recipe.file, recipe.line) == ("yaml", "a.yaml", 3)
    assert (shell.line, shell.commands) == (8, ["eutectic plan a.yaml    --json"])
