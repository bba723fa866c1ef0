"""Runs a process and says what it cost; reads the machine; prints what was found."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.copy_limit import Limit


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        wall: seconds from fork to exit.
        cpu: user and system seconds, of all its threads.
        anonymous: most resident memory that is no file's pages, in bytes, sampled every 5 ms.
        resident: most resident memory at all, in bytes, as the kernel counted it.
        output: what it printed.
    """

    wall: float
    cpu: float
    anonymous: int
    resident: int
    output: str


def run(command: Sequence[object]) -> Cost:
    """Runs a command to its end.

    Raises:
        RuntimeError: when it fails, with what it printed.
    """
    started = time.perf_counter()
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert child.stdout is not None
    os.set_blocking(child.stdout.fileno(), False)
    output, peak, usage = bytearray(), 0, None
    while usage is None:
        peak = max(peak, _anonymous(child.pid))
        output += child.stdout.read() or b""
        pid, status, found = os.wait4(child.pid, os.WNOHANG)
        usage = found if pid else None
        time.sleep(0 if pid else 0.005)
    wall = time.perf_counter() - started
    os.set_blocking(child.stdout.fileno(), True)
    with child.stdout:
        output += child.stdout.read()
    child.returncode = os.waitstatus_to_exitcode(status)  # reaped above; Popen must not wait for it again
    text = output.decode(errors="replace")
    if child.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed with {child.returncode}:\n{text[-4000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak, usage.ru_maxrss * 1024, text)


def _anonymous(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))


def merge(
    recipe: dict[str, Any],
    work: Path,
    *,
    memory: str,
    threads: int,
    plan_only: bool = False,
    keep: bool = False,
    load: str | None = None,
) -> tuple[dict[str, Any], Cost]:
    """Runs one merge in a fresh process and returns what it said and what it cost; the output is removed."""
    work.mkdir(parents=True, exist_ok=True)
    file, out = work / "recipe.json", work / "merged"
    shutil.rmtree(out, ignore_errors=True)
    file.write_text(json.dumps(recipe))
    command = [sys.executable, "-m", "benchmarks.child", file, out, "--memory", memory, "--threads", str(threads)]
    command += ["--plan-only"] * plan_only + (["--load", load] if load else [])
    cost = run(command)
    if not keep:
        shutil.rmtree(out, ignore_errors=True)
    said: dict[str, Any] = json.loads(cost.output.strip().splitlines()[-1])
    return said, cost


def copy(inputs: list[Path], work: Path, threads: int) -> Limit:
    """Measures the copy limit in a fresh process; the copy is removed."""
    out = work / "copied"
    command = [sys.executable, "-m", "benchmarks.copy_limit", *inputs, "--to", out, "--threads", str(threads), "--json"]
    return Limit(**json.loads(run(command).output.strip().splitlines()[-1]))


@contextmanager
def work_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder for a benchmark's outputs, on the disk of the models, gone at the end."""
    folder = out / f"work-{name}-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> dict[str, str]:
    """Returns what the figures depend on."""
    cpu = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ": ?"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return {
        "cpu": f"{os.cpu_count()} x {cpu.split(':')[1].strip()}",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "numba": version("numba"),
        "load before": f"{load:.1f}",
    }


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Prints a median with the least and the greatest: `1.12 [1.09-1.20]`."""
    found = list(values)
    low, middle, high = (f"{value:.{digits}f}" for value in (min(found), statistics.median(found), max(found)))
    return f"{middle} [{low}-{high}]"


def add_report(parser: argparse.ArgumentParser) -> None:
    """Adds the option that keeps every figure."""
    parser.add_argument("--json", type=Path, default=None, help="also write every figure to this file")


def report(options: argparse.Namespace, columns: Sequence[str], rows: Sequence[Sequence[str]], figures: Any) -> None:
    """Prints the machine, the command and a markdown table; writes the figures where asked."""
    facts = machine()
    print("; ".join(f"{key}: {value}" for key, value in facts.items()))
    print("command: python -m " + " ".join([_module(), *sys.argv[1:]]), end="\n\n")
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    if options.json:
        chosen = {key: str(value) for key, value in vars(options).items()}
        written = {"machine": facts, "options": chosen, "figures": figures}
        options.json.write_text(json.dumps(written, indent=1) + "\n")


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def each(names: Sequence[str], measure: Callable[[str], Any]) -> dict[str, Any]:
    """Measures one thing after another and says on stderr which is under way."""
    found = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found[name] = measure(name)
    return found
