"""The same bytes, whatever the threads, budget, slices, order, process and interruptions."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import eutectic
from tests.engine.family import Stop, StopAfter, digests, least, recipes, run, scheduled

NOWHERE = Path("nowhere")
BIG = list(recipes(NOWHERE, big=True))
SMALL = list(recipes(NOWHERE, big=False))
ALL = [pytest.param(True, name, id=name) for name in BIG] + [pytest.param(False, name, id=name) for name in SMALL]


@pytest.fixture(scope="module")
def reference(
    big: Path, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[bool, str], tuple[dict[str, Any], dict[str, str]]]:
    """Every recipe, and its digests on one thread with all the memory."""
    found = {}
    for is_big, root in ((True, big), (False, small)):
        for name, recipe in recipes(root, big=is_big).items():
            out = tmp_path_factory.mktemp("reference") / "out"
            found[is_big, name] = recipe, run(recipe, out, threads=1)
    return found


def test_recipes_differ(reference: dict[tuple[bool, str], Any]) -> None:
    """No two recipes give one output: equal digests below mean something."""
    files = [digest for _, output in reference.values() for name, digest in output.items() if name.endswith("tensors")]
    assert len(files) == len(set(files))


@pytest.mark.parametrize(("is_big", "name"), ALL)
def test_threads_budgets_and_slices(
    is_big: bool, name: str, reference: dict[tuple[bool, str], Any], tmp_path: Path
) -> None:
    """Two and five threads, the least budget that works, 256 MiB, small slices and the reverse order: one result."""
    recipe, expected = reference[is_big, name]
    assert run(recipe, tmp_path / "two", threads=2) == expected
    assert run(recipe, tmp_path / "five", threads=5, memory="256MiB") == expected
    assert run(recipe, tmp_path / "least", threads=3, memory=least(recipe)) == expected
    plan = eutectic.plan(recipe, threads=2)
    swept = scheduled(plan, slice_elements=65536, resident_bytes=0)
    turned = replace(swept, merged=swept.merged[::-1], copied=swept.copied[::-1])
    assert run(turned, tmp_path / "turned") == expected
    held = scheduled(eutectic.plan(recipe, threads=2), slice_elements=3 * 65536, resident_bytes=1 << 40)
    assert run(held, tmp_path / "held") == expected


@pytest.mark.parametrize(("is_big", "name"), ALL)
def test_resuming_anywhere(is_big: bool, name: str, reference: dict[tuple[bool, str], Any], tmp_path: Path) -> None:
    """Stopped three times, each time resumed with other threads and slices: the same bytes."""
    recipe, expected = reference[is_big, name]
    out = tmp_path / "out"
    for share, threads, size in ((0.1, 2, 65536), (0.3, 1, 4 * 65536), (0.3, 3, 65536)):
        plan = scheduled(eutectic.plan(recipe, threads=threads), slice_elements=size, resident_bytes=size << 5)
        try:
            run(plan, out, [StopAfter(share)])
        except Stop:
            assert not out.exists()
    assert run(recipe, out) == expected
    assert digests(out) == expected


SCRIPT = """
import json, sys
from pathlib import Path
from tests.engine.family import recipes, run
big, small, out = map(Path, sys.argv[1:])
found = {}
for is_big, root in ((True, big), (False, small)):
    for name, recipe in recipes(root, big=is_big).items():
        found[f"{is_big} {name}"] = run(recipe, out / f"{is_big} {name}", threads=2)
json.dump(found, sys.stdout)
"""


def test_another_process(big: Path, small: Path, reference: dict[tuple[bool, str], Any], tmp_path: Path) -> None:
    """A fresh process with another hash seed and another locale writes the same bytes."""
    environment = os.environ | {"PYTHONHASHSEED": "12345", "LC_ALL": "C", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(big), str(small), str(tmp_path)],
        env=environment, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert json.loads(done.stdout) == {f"{b} {name}": output for (b, name), (_, output) in reference.items()}
