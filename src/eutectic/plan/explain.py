"""A plan in words and as data: what it will read, hold, write, and do to every tensor."""

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from eutectic.checkpoint.remote import missing
from eutectic.checkpoint.source import Checkpoint
from eutectic.quantities import format_bytes, format_seconds

if TYPE_CHECKING:  # a plan explains itself by calling this module
    from eutectic.plan.steps import Plan


def explain(plan: "Plan", *, tensors: bool = False, speed: float | None = None) -> str:
    """Returns the plan as a page of text.

    Args:
        plan: the plan.
        tensors: list every tensor, not a summary.
        speed: bytes per second of an earlier run on this machine; None leaves the time out.
    """
    get = f"{format_bytes(plan.downloads)} to download first" if plan.downloads else "nothing to download"
    lines = [
        f"inputs    {', '.join(_input(plan, number) for number in range(len(plan.read)))}",
        f"reads     {format_bytes(plan.reads)} in {plan.sweeps:.3g} sweep(s) over the models; {get}",
        (
            f"writes    {format_bytes(plan.writes)} in {len(plan.files.shards)} "
            f"file{'s'[: len(plan.files.shards) != 1]}, "
            f"and {', '.join(each.name for each in plan.sidecars) or 'no other files'}"
        ),
        (
            f"memory    {format_bytes(plan.peak)} of {format_bytes(plan.budget)} at most: "
            f"{format_bytes(plan.memory.buffers)} buffers, {format_bytes(plan.memory.folds)} statistics, "
            f"{format_bytes(plan.memory.slack)} the rest; the interpreter and libraries not counted"
        ),
        f"threads   {plan.schedule.threads} on {plan.device}, slices of {plan.schedule.slice_elements:,} elements",
    ]
    if plan.calibration is not None:
        left = "" if plan.calibration.operations else "; all results are stored already"
        lines.append(f"data      {format_bytes(plan.calibration.peak)} at most for calibration{left}")
        lines += [f"pass      {said}" for said in plan.calibration.said]
    if plan.tasks.shards:
        kinds = sorted({f"{s.steps[-1].method.name}.{extra.name}" for s in plan.merged for extra in s.extras})
        lines.append(
            f"tasks     {', '.join(kinds)} for each of {len(plan.tasks.shards)}, {format_bytes(plan.tasks.nbytes)} of "
            "what is written"
        )
    if speed:
        seconds = format_seconds((plan.reads + plan.writes) / speed)
        lines.append(f"time      about {seconds} at this machine's last speed")
    lines += _tensor_lines(plan) if tensors else _summary(plan)
    lines += [f"note      {note}" for note in plan.notes]
    lines += [f"left out  {each.name}: {each.why}" for each in plan.left_out]
    return "\n".join(_wrapped(line) for line in lines)


def _input(plan: "Plan", number: int) -> str:
    checkpoint = plan.inputs[number]
    said = ["base"] if plan.has_base and number == 0 else ["adapter"] if checkpoint.deltas else []
    away = _away(checkpoint)
    said += [f"{format_bytes(away)} to download"] if away else []
    return f"{checkpoint.reference} ({', '.join(said)})" if said else checkpoint.reference


def _away(checkpoint: Checkpoint) -> int:
    """Bytes of an input that are still to be downloaded."""
    return sum(size for _, _, size in missing(checkpoint.hub))


def _summary(plan: "Plan") -> list[str]:
    chains = Counter((", then ".join(step.method.name for step in site.steps), site.aside) for site in plan.merged)
    lines = [
        f"merged    {count} tensors by {chain}{f' ({aside})' if aside else ''}"
        for (chain, aside), count in chains.items()
    ]
    fate = "copied" if plan.losses is None else "made  "
    lines += [f"{fate}    {count} tensors: {why}" for why, count in Counter(each.why for each in plan.copied).items()]
    return lines + [f"dropped   {each.name}: {each.why}" for each in plan.dropped]


def _tensor_lines(plan: "Plan") -> list[str]:
    lines = []
    for site in plan.merged:
        steps = ", then ".join(_step(step.method.name, dict(step.values)) for step in site.steps)
        lines.append(
            f"merged    {site.spec.name} {site.spec.dtype} {list(site.spec.shape)}: {steps}"
            + "".join(f"; {said}" for said in (site.aside, site.why) if said)
        )
    fate = "copied" if plan.losses is None else "made  "
    lines += [f"{fate}    {e.spec.name} {e.spec.dtype} {list(e.spec.shape)}: {e.why}" for e in plan.copied]
    return lines + [f"dropped   {each.name}: {each.why}" for each in plan.dropped]


def _step(name: str, values: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_value(value)}' for key, value in values.items())})"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        same = len(set(value)) == 1
        return _value(value[0]) if same else "[" + ", ".join(_value(each) for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, 118, subsequent_indent=" " * 10, break_long_words=False, break_on_hyphens=False)


def describe(plan: "Plan") -> dict[str, Any]:
    """Returns the plan as plain data, for `--json`."""
    return {
        "job": plan.job,
        "inputs": [checkpoint.reference for checkpoint in plan.read],
        "reads": plan.reads,
        "writes": plan.writes,
        "downloads": plan.downloads,
        "downloads_by_input": {each.reference: _away(each) for each in plan.read},
        "sweeps": round(plan.sweeps, 3),
        "peak": plan.peak,
        "budget": plan.budget,
        "threads": plan.schedule.threads,
        "slice_elements": plan.schedule.slice_elements,
        "device": plan.device,
        "shards": [shard.filename for shard in plan.layout.shards],
        "files": [each.name for each in plan.sidecars],
        "tasks": {shard.filename: shard.size for shard in plan.tasks.shards},
        "merged": {
            site.spec.name: [
                {"method": step.method.name, **{name: _plain(value) for name, value in step.values.items()}}
                for step in site.steps
            ]
            for site in plan.merged
        },
        "aside": {site.spec.name: site.aside for site in plan.merged if site.aside},
        "copied": {each.spec.name: each.why for each in plan.copied},
        "dropped": {each.name: each.why for each in plan.dropped},
        "notes": list(plan.notes),
        "calibration": None
        if plan.calibration is None
        else {
            "passes": list(plan.calibration.said),
            "finished": list(plan.calibration.finished),
            "results": list(plan.calibration.digests),
            "peak": plan.calibration.peak,
            "operations": plan.calibration.operations,
            "store": str(plan.calibration.store),
        },
        "left_out": {each.name: each.why for each in plan.left_out},
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
