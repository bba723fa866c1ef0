"""YAML to plain data and back, keeping the line of every key: the part of YAML that recipes use, nothing else.

Built on ruamel's events, so that depth, size and repetition are bounded while reading, no tag constructs anything,
and a key written twice is an error. Words and numbers are read as YAML 1.2 reads them (`no` and `on` are words).
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import SafeRepresenter

#: A recipe of a thousand models and rules is well below these.
LARGEST_TEXT = 2**20
DEEPEST = 64
MOST_NODES = 50_000

#: What ruamel's scanner lets through on some malformed escapes and directives.
_ESCAPING = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, AssertionError, RecursionError)

_WORDS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_INTEGER = re.compile(r"[-+]?[0-9]{1,400}", re.ASCII)
_BASED = re.compile(r"0o[0-7]{1,400}|0x[0-9a-fA-F]{1,400}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
#: Words that need no quotes anywhere.
_BARE = re.compile(r"[A-Za-z_./][A-Za-z0-9_./@+-]*", re.ASCII)


@dataclass(frozen=True)
class Node:
    """A value of the document and the line it starts on, from 1; `keys` holds the lines of a mapping's keys."""

    value: "str | int | float | bool | list[Node] | dict[str, Node] | None"
    line: int
    keys: dict[str, int]
    size: int

    def plain(self) -> Any:
        """Returns the value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        return [node.plain() for node in self.value] if isinstance(self.value, list) else self.value


class DocumentError(Exception):
    """The text is not a document that a recipe may be; `line` is where, from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line, self.text = line, text


def compose(text: str) -> tuple[list[Node], list[DocumentError]]:
    """Reads documents; returns their tops with the errors one can read past (keys twice, tags, keys that are no text).

    An empty text is one document without a value.

    Raises:
        DocumentError: when the text is not YAML, is too large, too deep, or repeats itself without end.
    """
    if len(text) > LARGEST_TEXT:
        raise DocumentError(1, f"expected at most {LARGEST_TEXT} characters, found {len(text)}")
    composer = _Composer(_events(text))
    return composer.documents() or [Node(None, 1, {}, 1)], composer.errors


def node_of(data: object) -> Node:
    """Returns plain data as nodes without lines.

    Raises:
        DocumentError: when it is too deep, too large, or holds what no document can.
    """
    return _Wrapper().node(data, 0)


def scalar(text: str) -> str | int | float | bool | None:
    """Returns what an unquoted word means in YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "", 1)) if _SPECIAL.fullmatch(text) else text


class _Representer(SafeRepresenter):
    """Quotes every text but plain words: ruamel's own choice (`{a: :0}`) cannot always be read again."""

    def represent_text(self, text: str) -> ScalarNode:
        """Returns the node of a text."""
        bare = _BARE.fullmatch(text) is not None and scalar(text) == text
        node: ScalarNode = self.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else '"')
        return node


_Representer.add_representer(str, _Representer.represent_text)


def dump(data: dict[str, Any]) -> str:
    """Returns plain data as YAML that `compose` reads back equal."""
    writer = YAML(typ="safe", pure=True)
    writer.Representer = _Representer
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.default_flow_style = None  # scalars on one line, the rest indented
    writer.width = 120
    text = StringIO()
    writer.dump(data, text)
    return text.getvalue()


def at(name: str, line: int) -> str:
    """Returns where something is in a file, or in text or data without a name."""
    if not line:
        return name or "recipe"
    return f"{name}:{line}" if name else f"line {line}"


def _events(text: str) -> Iterator[Event]:
    """Yields ruamel's events; every way it has to fail becomes ours."""
    line = 1
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            line = event.start_mark.line + 1
            yield event
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = line if mark is None else mark.line + 1
        said = " ".join(str(part) for part in (error.context, error.problem) if part)
        hint = "; YAML indents with spaces, not tabs" if "\\t" in said else ""
        raise DocumentError(line, f"not YAML: {said}{hint}") from None
    except YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1  # a character that YAML does not allow
        raise DocumentError(line, f"not YAML: {str(error).splitlines()[0]}") from None
    except _ESCAPING as error:
        raise DocumentError(line, f"not YAML after this line: {error}") from None


class _Composer:
    def __init__(self, events: Iterator[Event]) -> None:
        self.events = events
        self.errors: list[DocumentError] = []
        self.anchors: dict[str, Node] = {}
        self.nodes = 0

    def documents(self) -> list[Node]:
        """The documents of the text, each with anchors of its own."""
        found = []
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                self.anchors = {}
                found.append(self.node(next(self.events), 0))
        return found

    def node(self, event: Event, depth: int) -> Node:
        """The value that starts with an event."""
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent):
            return self.count(self.alias(event, line), line)
        if depth > DEEPEST:
            raise DocumentError(line, f"expected at most {DEEPEST} levels within one another, found more")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.errors.append(DocumentError(line, f"expected plain values, found the tag {str(tag)[:60]}"))
        if isinstance(event, MappingStartEvent):
            node = self.mapping(line, depth)
        elif isinstance(event, SequenceStartEvent):
            node = self.sequence(line, depth)
        elif isinstance(event, ScalarEvent):
            node = Node(scalar(event.value) if event.style is None else event.value, line, {}, 1)
            self.count(node, line)
        else:
            raise DocumentError(line, "not YAML: a value is missing")
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def count(self, node: Node, line: int) -> Node:
        """Adds a node to those so far; an alias counts as all it stands for."""
        self.nodes += node.size
        if self.nodes > MOST_NODES:
            raise DocumentError(line, f"expected at most {MOST_NODES} values, aliases written out; found more")
        return node

    def alias(self, event: AliasEvent, line: int) -> Node:
        if event.anchor not in self.anchors:
            raise DocumentError(line, f"*{event.anchor} refers to nothing before it")
        return self.anchors[event.anchor]

    def sequence(self, line: int, depth: int) -> Node:
        found: list[Node] = []
        while not isinstance(event := next(self.events), SequenceEndEvent):
            found.append(self.node(event, depth + 1))
        return Node(found, line, {}, 1 + sum(node.size for node in found))

    def mapping(self, line: int, depth: int) -> Node:
        found: dict[str, Node] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.node(event, depth + 1)
            at = event.start_mark.line + 1
            value = self.node(next(self.events), depth + 1)
            if not isinstance(key.value, str):
                self.errors.append(DocumentError(at, f"expected a key that is text, found {_kind(key)}"))
            elif key.value in found:
                text = f"the key {key.value[:60]!r} is written twice, first on line {lines[key.value]}"
                self.errors.append(DocumentError(at, text))
            else:
                found[key.value], lines[key.value] = value, at
        return Node(found, line, lines, 1 + sum(node.size for node in found.values()))


class _Wrapper:
    """Plain data as nodes."""

    def __init__(self) -> None:
        self.nodes = 0

    def node(self, data: object, depth: int) -> Node:
        self.nodes += 1
        if depth > DEEPEST or self.nodes > MOST_NODES:
            raise DocumentError(0, f"expected at most {DEEPEST} levels and {MOST_NODES} values, found more")
        if isinstance(data, Mapping):
            inside = {str(key): self.node(value, depth + 1) for key, value in data.items()}
            return Node(inside, 0, dict.fromkeys(inside, 0), 1)
        if isinstance(data, list | tuple):
            return Node([self.node(value, depth + 1) for value in data], 0, {}, 1)
        if data is None or isinstance(data, str | bool | int | float):
            return Node(data, 0, {}, 1)
        if isinstance(data, os.PathLike):
            return Node(os.fspath(data), 0, {}, 1)
        raise DocumentError(0, f"expected text, numbers, lists and mappings, found {type(data).__name__}")


def _kind(node: Node) -> str:
    names = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return names.get(type(node.value), str(node.value)[:60])
