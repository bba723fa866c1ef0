"""Writes the table of what was run, and the claims it bears on, in Markdown."""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.results.claims import CLAIMS, Claim
from benchmarks.results.rows import ROWS
from benchmarks.results.run import BASE, EXPERTS, Evaluation, Scores

SUITES = {
    "full": "Six full fine-tunes of all-MiniLM-L6-v2",
    "lora": "Six LoRA adapters of all-MiniLM-L6-v2",
    "vision": "Four full fine-tunes of EfficientNet-Lite0",
}
UNSEEN = "fortunes"


@dataclass(frozen=True)
class Line:
    """A row of a table: what it scored, in percent, on each of its samples.

    Attributes:
        means: mean accuracy on the tasks of the experts, one a sample.
        shares: mean over the tasks of the accuracy as a share of the own expert's, one a sample.
        unseen: accuracy on the task no expert was trained on, one a sample; empty where there is none.
        number: chosen on validation rows, one a sample.
        seconds: of merging, with data and learning, of the slowest sample.
        right: by task, what each test row adds to the task's share, in percent, over the samples.
        blind: the same of the unseen task, to its accuracy.
    """

    name: str
    means: tuple[float, ...]
    shares: tuple[float, ...]
    unseen: tuple[float, ...]
    number: tuple[float | None, ...]
    seconds: float
    right: tuple[tuple[float, ...], ...] = ()
    blind: tuple[float, ...] = ()


def lines_of(found: Mapping[str, Evaluation]) -> dict[str, Line]:
    """Returns the table's rows by name, base and experts first; only what was scored on test rows."""
    made: dict[str, list[Evaluation]] = defaultdict(list)
    for each in found.values():
        if each.split == "test":
            made[each.row].append(each)
    if EXPERTS not in made:
        return {}
    experts = made[EXPERTS][0]
    tasks = list(experts.hits)
    names = [name for name in (BASE, EXPERTS, *(row.name for row in ROWS)) if name in made]
    return {name: _line(name, sorted(made[name], key=lambda each: each.sample), experts, tasks) for name in names}


def _line(name: str, samples: Sequence[Evaluation], experts: Evaluation, tasks: Sequence[str]) -> Line:
    own = {task: experts.mean([task]) for task in tasks}
    return Line(
        name,
        tuple(100 * each.mean(tasks) for each in samples),
        tuple(100 * statistics.fmean(each.mean([task]) / own[task] for task in tasks) for each in samples),
        tuple(100 * each.mean([UNSEEN]) for each in samples if UNSEEN in each.hits),
        tuple(each.number for each in samples),
        max(each.seconds for each in samples),
        tuple(tuple(100 * flag / own[task] for flag in _mean(samples, task)) for task in tasks),
        tuple(100 * flag for flag in _mean(samples, UNSEEN)) if UNSEEN in samples[0].hits else (),
    )


def _mean(samples: Sequence[Evaluation], task: str) -> list[float]:
    """How often each row of a task is right over the samples."""
    return [statistics.fmean(flags) for flags in zip(*(each.hits[task] for each in samples), strict=True)]


def standard_error(one: Line, other: Line, by: str) -> float:
    """Returns the standard error of the difference of two lines, judged on the same rows, in points."""
    pairs = [(one.blind, other.blind)] if by == "unseen" else list(zip(one.right, other.right, strict=True))
    variance = 0.0
    for ours, theirs in pairs:
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        variance += statistics.pvariance(gaps) / len(gaps)
    return variance**0.5 / len(pairs)


def spread(values: Sequence[float]) -> str:
    """Writes a mean, and the least and the most where there are several."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def table(lines: Mapping[str, Line]) -> str:
    """Writes the rows as a table."""
    head = (
        "| merge | number | share of experts, % | accuracy, % | unseen, % | samples | seconds |\n" + "|---" * 7 + "|\n"
    )
    text = ""
    for line in lines.values():
        numbers = sorted({f"{number:g}" for number in line.number if number is not None})
        cells = (line.name, ", ".join(numbers), spread(line.shares), spread(line.means), spread(line.unseen))
        text += f"| {' | '.join(cells)} | {len(line.means)} | {line.seconds:.1f} |\n"
    return head + text


def verdict(claim: Claim, lines: Mapping[str, Line]) -> str | None:
    """Compares the two sides of a claim; None where one of them was not run."""
    if claim.better not in lines or claim.than not in lines:
        return None
    sides = [getattr(lines[name], claim.by) for name in (claim.better, claim.than)]
    if not all(sides):
        return None
    better, than = (statistics.fmean(side) for side in sides)
    error = standard_error(lines[claim.better], lines[claim.than], claim.by)
    if abs(better - than) <= 2 * error:
        held = "within noise"
    else:
        held = "**held**" if better > than else "**did not hold**"
    cells = (claim.source, claim.text, spread(sides[0]), spread(sides[1]), f"{better - than:+.1f} ± {error:.1f}", held)
    return f"| {' | '.join(cells)} |"


def write(cache: Path, out: Path) -> None:
    """Writes the page between the marks of a page that stands, whose words around them are kept."""
    parts = []
    for suite, title in SUITES.items():
        lines = lines_of(Scores(cache / f"{suite}.jsonl").found)
        if not lines:
            continue
        parts.append(f"## {title}\n\n{table(lines)}")
        verdicts = [text for claim in CLAIMS if (text := verdict(claim, lines)) is not None]
        if verdicts:
            head = "| source | claim | the one | the other | difference | here |\n|---|---|---|---|---|---|\n"
            parts.append(f"### Claims\n\n{head}" + "\n".join(verdicts) + "\n")
    before, mark, rest = out.read_text().partition(MARK)
    _, end, after = rest.partition(END)
    if not (mark and end):
        raise ValueError(f"{out}: expected the marks {MARK} and {END}")
    facts = {name: value for name, value in measure.machine().items() if name not in {"load before", "system"}}
    machine = "; ".join(f"{name}: {value}" for name, value in facts.items())
    out.write_text(f"{before}{MARK}\n{machine}\n\n" + "\n".join(parts) + f"{END}{after}")


MARK, END = "<!-- measured -->", "<!-- end -->"
