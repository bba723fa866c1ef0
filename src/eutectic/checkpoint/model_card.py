"""The model card of an output: its parents and their licences first, then how it was made."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_MIXED = "The parents declare different licences, or none: each of those below applies."
_YAML_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Parent:
    """A model that went into a merge.

    Attributes:
        reference: what the recipe calls it: a path or a hub id.
        revision: the commit of a hub model.
        licence: what its own card declares, or None.
        base: whether it is the base.
    """

    reference: str
    revision: str | None = None
    licence: str | None = None
    base: bool = False

    @property
    def hub_id(self) -> str | None:
        """The hub id, when the reference is one."""
        name = self.reference.partition("+")[0].partition("@")[0]
        return name if self.revision and _HUB_ID.fullmatch(name) else None


def read_licence(folder: Path) -> str | None:
    """Returns the licence that a folder's README.md declares in its front matter, None when it declares none.

    A licence the hub does not know is `other: its name`.
    """
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    if found is None:
        return None
    # The front matter is YAML; of it only these plain keys are read, as hub cards write them.
    keys = dict(
        re.findall(r"^(license|license_name):[ \t]*[\"']?([^\"'\r\n#]*?)[\"']?[ \t]*(?:#.*)?$", found[1], re.MULTILINE)
    )
    listed = re.search(r"^license:[ \t]*\r?\n[ \t]*-[ \t]*[\"']?([^\"'\r\n]+?)[\"']?[ \t]*$", found[1], re.MULTILINE)
    name = keys.get("license") or (listed[1] if listed else "")
    if name == "other" and keys.get("license_name"):
        return f"other: {keys['license_name']}"
    return name or None


def model_card(
    name: str, method: str, recipe: str, parents: Sequence[Parent], *, library: str | None = "transformers"
) -> str:
    """Returns README.md of an output: front matter for the hub, method, parents with licences, and the recipe.

    Args:
        name: title of the card.
        method: the chain in words, such as `dare, then ties`.
        recipe: the recipe as YAML.
        parents: the base, if any, and the models.
        library: `library_name` for the hub, None to leave it out.
    """
    licences = {parent.licence for parent in parents}
    common = licences.pop() if len(licences) == 1 else None
    ids = dict.fromkeys(parent.hub_id for parent in parents if parent.hub_id)
    front = ["---"]
    if ids:
        front += ["base_model:", *(f"- {_scalar(parent)}" for parent in ids)]
    front += [f"library_name: {library}"] if library else []
    known, _, own = (common or "other: licences-of-the-parents").partition(": ")
    front += ["tags:", "- merge", "- eutectic", f"license: {_scalar(known)}"]
    front += [f"license_name: {_scalar(own)}"] if own else []
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", recipe)), default=0))
    licence = f"All parents declare the licence {common}." if common else _MIXED
    rows = [
        f"| {_cell(p.reference)} | {'base' if p.base else 'model'} | {_cell(p.revision)} | {_cell(p.licence)} |"
        for p in parents
    ]
    table = ["| model | role | revision | licence |", "|---|---|---|---|", *rows]
    made = f"Merged by {method} with [eutectic](https://pypi.org/project/eutectic/)."
    body = [f"# {name}", "", made, "", "## Parents", "", licence, "", *table, "", "## Recipe", ""]
    body += [f"{fence}yaml", recipe.rstrip("\n"), fence, ""]
    return "\n".join([*front, "---", "", *body])


def _scalar(text: str) -> str:
    """Writes a YAML scalar, quoted unless it is a plain word."""
    plain = re.fullmatch(r"[A-Za-z][\w./-]*", text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _cell(text: str | None) -> str:
    """Writes a table cell: no bars, no line breaks, a dash for nothing."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|") if text else "-"
