"""The shape of the code: which way imports point, and that every file is tested and every public name documented."""

import ast
import graphlib
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "eutectic"
MODULES = {
    ".".join(p.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(SRC.rglob("*.py"))
}

#: From the top down. A part imports itself and parts of lower ranks; two parts of one rank do not know each other.
RANKS: tuple[set[str], ...] = (
    {"cli", "ui", "__main__"},
    {"__init__"},
    {"api"},
    {"search"},
    {"evaluate", "diagnose"},
    {"engine"},
    {"calibrate"},
    {"plan"},
    {"recipe"},
    {"methods"},
    {"stats"},
    {"tokens", "routed"},
    {"adapters", "layout"},
    {"numerics", "checkpoint"},
    {"quantities"},
    {"errors", "about", "speed", "spectra"},
)
RANK = {part: rank for rank, parts in enumerate(RANKS) for part in parts}

#: The faces see the verbs, and what errors and sizes they print; nothing of how it is done.
_SEEN = {"__init__", "api", "errors", "quantities", "about"}
FACES = {"cli": _SEEN, "ui": _SEEN}

#: Imports inside functions, also by `import_module`, each with its reason.
LATE_IMPORTS = {
    "eutectic": "the verbs: `import eutectic` is light, and each verb loads what it needs when it is first used",
    "eutectic.calibrate.extras": "transformers, datasets, pyarrow, Pillow: optional, for methods that look at data",
    "eutectic.checkpoint.hub": "huggingface_hub, which takes a second: local models are opened without it",
    "eutectic.checkpoint.pickled": "torch: a header is read, and `inspect` answers, without it",
    "eutectic.cli.main": "the verbs' files: only the one that was called for is loaded",
    "eutectic.numerics.tensors": "torch, for all: the fused kernels do without it",
    "eutectic.search.weights": "scipy, of an optional extra: only a search for weights takes it",
    "eutectic.tokens.pieces": "tokenizers, of an optional extra: only one fill splits text",
    "eutectic.plan.inputs": "adapters, which load the compiled kernels: opening a model does without",
}

#: What answers at once must not load: the heavy libraries, by module that stays free of them.
LIGHT = {
    "eutectic": {"torch", "numba", "numpy", "pydantic", "huggingface_hub", "rich"},
    "eutectic.cli": {"torch", "numba", "numpy", "huggingface_hub", "rich.progress"},
    "eutectic.api.models": {"torch", "huggingface_hub", "numba", "pydantic", "ruamel.yaml", "rich"},
    "eutectic.api.recipes": {"torch", "rich"},
    "eutectic.api.runs": {"torch", "rich"},
}

#: Source files whose tests stand elsewhere, each with its reason.
TESTED_ELSEWHERE: dict[str, str] = {}


def part(module: str) -> str:
    """Returns the part of the package a module belongs to: `eutectic.plan.steps` -> `plan`."""
    return (*module.split("."), "__init__")[1]


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yields the statements that run when a module is imported: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typing_only and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from statements(child)


def targets(node: ast.AST) -> Iterator[str]:
    """Yields the modules of this package that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "eutectic")
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eutectic":
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in MODULES else str(node.module)


def imports(node: ast.AST) -> bool:
    """Whether a node imports something when it runs."""
    called = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module")
    return called or isinstance(node, (ast.Import, ast.ImportFrom))


def parse(module: str) -> ast.Module:
    """Returns a module's syntax tree."""
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    """A module imports its own part and lower ranks only, also inside functions and for types."""
    here = part(module)
    assert here in RANK, f"{here} has no rank: place it in RANKS"
    for there in {part(target) for node in ast.walk(parse(module)) for target in targets(node)} - {here}:
        assert there in RANK, f"{module} imports {there}, which has no rank"
        assert RANK[there] > RANK[here], f"{module} imports {there}, which is not below {here}"
        assert there in FACES.get(here, {there}), f"{module} imports {there}: a face goes through api"


def test_modules_import_without_cycles() -> None:
    """No module imports itself through others."""
    graph = {m: {t for node in statements(parse(m)) for t in targets(node)} - {m} for m in MODULES}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # a cycle raises CycleError, which prints it


@pytest.mark.parametrize("module", MODULES)
def test_imports_stand_at_the_top(module: str) -> None:
    """Functions import nothing, but for the few listed above."""
    functions = (n for n in ast.walk(parse(module)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
    late = sorted({n.lineno for f in functions for n in ast.walk(f) if imports(n)})
    assert bool(late) == (module in LATE_IMPORTS), f"{module} imports inside a function at lines {late}"


@pytest.mark.parametrize("module", LIGHT)
def test_what_answers_at_once_stays_light(module: str) -> None:
    """A fresh interpreter that imports the module has loaded none of the heavy libraries."""
    code = f"import sys, {module}; print(*sorted({LIGHT[module]!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module", [m for m, path in MODULES.items() if path.name not in {"__init__.py", "__main__.py"}]
)
def test_every_file_has_a_test_file(module: str) -> None:
    """`src/eutectic/plan/steps.py` is tested by `tests/plan/test_steps.py`."""
    place = MODULES[module].relative_to(SRC)
    expected = ROOT / "tests" / place.parent / f"test_{place.name.lstrip('_')}"
    assert expected.exists() or module in TESTED_ELSEWHERE, f"{module} has no {expected.relative_to(ROOT)}"


def test_lists_name_what_exists() -> None:
    """Exceptions that no longer apply are removed from the lists above."""
    assert set(LATE_IMPORTS) | set(TESTED_ELSEWHERE) <= set(MODULES)


def test_public_names_are_sorted_and_documented() -> None:
    """Every name in `eutectic.__all__` has a docstring and is shown in README or docs as `eutectic.name`."""
    package = importlib.import_module("eutectic")
    pages = "".join(p.read_text(encoding="utf-8") for p in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
    names = [name for name in package.__all__ if not name.startswith("__")]
    assert names
    assert list(package.__all__) == sorted(package.__all__)
    assert [n for n in names if not inspect.getdoc(getattr(package, n))] == []
    assert [n for n in names if f"eutectic.{n}" not in pages] == []
