"""Carries out what a plan demands of data: one model after another, each result stored as soon as its block is done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.columns import learn_columns
from eutectic.calibrate.gradients import check_head, differentiate, gradients_of
from eutectic.calibrate.observe import Collector
from eutectic.calibrate.passes import check_tokens, pass_merged, pass_through
from eutectic.calibrate.prepare import Job, facts, head_of, jobs, section, spills
from eutectic.calibrate.skeleton import Fitted, Skeleton, Weights, build
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.plan.steps import Demand, Plan
from eutectic.stats.fold import Accumulated, Calibrated, Of, Origin
from eutectic.stats.gradients import OfGradients
from eutectic.stats.store import Outcome, Results, Store

#: What the parts of a model outside of its blocks are called in the store.
REST = "rest"
#: Hears (parts done, parts in all, what is done).
Tell = Callable[[int, int, str], None]


def _nobody(done: int, total: int, doing: str) -> None:
    """Hears it and does nothing."""
    del done, total, doing


@dataclass(frozen=True)
class _Open:
    """A demand whose results are still to be found."""

    demand: Demand
    results: Results

    @property
    def statistic(self) -> Calibrated:
        return self.demand.statistic


def calibrate(plan: Plan, *, merged: Callable[[], Checkpoint] | None = None, tell: Tell = _nobody) -> None:
    """Finds every result that a plan demands and the store lacks.

    Args:
        plan: with its `calibration`.
        merged: opens the plan's own output as far as the results stored so far allow, for statistics of the merged
            model.
        tell: hears how far it is.

    Raises:
        CalibrationError: when data, tokenizer, head or labels do not fit a model; nothing has been run then. Or when
            a model's activations or gradients are not finite.
        OutputError: when the store cannot be written; what is there stays for the next run.
    """
    assert plan.calibration is not None
    if all(plan.calibration.finished):
        return
    store = Store(plan.calibration.store)
    found = {job.source: job for job in jobs(plan)}
    open_: list[_Open] = []
    for demand, digest in zip(plan.demands, plan.calibration.digests, strict=True):
        results = store.results(facts(plan, demand, found))
        if results.digest != digest:
            raise CalibrationError(
                f"{found[demand.source].samples.reference}: changed since the plan was made; plan again"
            )
        if not results.finished:
            open_.append(_Open(demand, results))
    for job in found.values():
        own = [each for each in open_ if each.demand.source == job.source and isinstance(each.statistic, Accumulated)]
        for of in (Of.EACH, Of.BASE):
            chosen = [each for each in own if each.statistic.of is of]
            if chosen:
                _one_model(plan, job, of, chosen, tell)
    behind = [each for each in open_ if each.statistic.of is Of.MERGED]
    if behind:
        assert merged is not None
        _behind_merged(plan, list(found.values()), behind, merged, tell)
    for statistic in dict.fromkeys(each.statistic for each in open_ if each.statistic.origin is Origin.LEARNED):
        _learn(plan, found, [each for each in open_ if each.statistic == statistic], tell)


def _learn(plan: Plan, found: Mapping[int, Job], open_: Sequence[_Open], tell: Tell) -> None:
    for source, outcomes in learn_columns(plan, found, [each.demand for each in open_], tell).items():
        results = next(each.results for each in open_ if each.demand.source == source)
        results.write(REST, outcomes)
        results.finish()


def _one_model(plan: Plan, job: Job, of: Of, open_: Sequence[_Open], tell: Tell) -> None:
    runs, weights = (job.runs, job.weights) if of is Of.EACH else job.at_base(plan)
    said = section(plan)
    batches = list(job.processor.batches(job.samples, said.batch))
    inputs = [each for each in open_ if each.statistic.origin is Origin.INPUTS]
    if inputs:
        skeleton, fitted = fit(runs, weights, _names(inputs), blocks=said.runner != "whole")
        check_tokens(skeleton, batches, job.processor.reference)
        parts = [*skeleton.blocks, None]
        watch = _Watch(skeleton, fitted, inputs, len(parts), f"calibrating {job.name}", tell)
        pass_through(
            skeleton,
            fitted,
            batches,
            Collector(watch.wanted, job.model.reference),
            watch.done,
            finished=watch.finished,
            include_padding=said.padding == "include",
            spill=_folder(plan) if spills(plan, job) else None,
        )
        for each in inputs:
            each.results.finish()
    gradients = [each for each in open_ if each.statistic.origin is Origin.GRADIENTS]
    if gradients:
        _differentiate(plan, job, runs, weights, gradients, batches, tell)


def _folder(plan: Plan) -> Path:
    """Where waiting activations are put: beside the results, whose disk has room for them."""
    assert plan.calibration is not None
    return plan.calibration.store


def _differentiate(
    plan: Plan,
    job: Job,
    runs: Checkpoint,
    weights: Weights,
    open_: Sequence[_Open],
    batches: Sequence[Batch],
    tell: Tell,
) -> None:
    head = head_of(plan, job)
    skeleton = Skeleton(build(runs, headless=head is not None), runs.reference)
    fitted = skeleton.fit(weights)
    check_tokens(skeleton, batches, job.processor.reference)
    parameters = gradients_of(skeleton, fitted, _names(open_))
    check_head(skeleton.module, batches, head)
    done = iter(range(1, len(batches) + 1))
    by_statistic = {each.statistic: each for each in open_ if isinstance(each.statistic, OfGradients)}
    outcomes = differentiate(
        skeleton.module,
        parameters,
        batches,
        [each for each in by_statistic if isinstance(each, OfGradients)],
        head=head,
        seed=plan.recipe.seed,
        tell=lambda: tell(next(done), len(batches), f"differentiating {job.name}"),
    )
    names = skeleton.parameters(fitted)
    for statistic, found in outcomes.items():
        results = by_statistic[statistic].results
        for part in (None, *skeleton.blocks):
            own = {name: o for name, o in found.items() if skeleton.part_of(names[name][0]) == part}
            results.write(part or REST, own)
        results.finish()


def _names(open_: Sequence[_Open]) -> list[str]:
    return list(dict.fromkeys(name for each in open_ for name in each.demand.tensors))


def fit(runs: Checkpoint, weights: Weights, wanted: Sequence[str], *, blocks: bool) -> tuple[Skeleton, Fitted]:
    """Builds the module of a model, without its head unless a tensor that is wanted lies there.

    Raises:
        CalibrationError: when it cannot be built, or its tensors do not fit.
    """
    skeleton = Skeleton(build(runs, headless=True), runs.reference, blocks=blocks)
    fitted = skeleton.fit(weights)
    if set(wanted) <= skeleton.parameters(fitted).keys():
        return skeleton, fitted
    whole = Skeleton(build(runs, headless=False), runs.reference, blocks=blocks)
    return whole, whole.fit(weights)


class _Watch:
    """Takes one model's results from the collector, part by part, to the store."""

    def __init__(
        self, skeleton: Skeleton, fitted: Fitted, open_: Sequence[_Open], parts: int, doing: str, tell: Tell
    ) -> None:
        self._skeleton, self._open, self._parts, self._doing, self._tell = skeleton, open_, parts, doing, tell
        self._stored = skeleton.parameters(fitted)
        self._ready = 0
        self.wanted: dict[str, list[Accumulated]] = {}
        for each in open_:
            statistic = each.statistic
            assert isinstance(statistic, Accumulated)
            for stored in each.demand.tensors:
                for name in self._stored.get(stored, ()):
                    self.wanted.setdefault(name, []).append(statistic)

    def finished(self, part: str | None) -> bool:
        """Whether an earlier run has stored a part."""
        return all(each.results.has(part or REST) for each in self._open)

    def done(self, part: str | None, collector: Collector) -> None:
        """Stores a part."""
        for each in self._open:
            names = [
                name
                for stored in each.demand.tensors
                for name in self._stored.get(stored, ())[:1]
                if self._skeleton.part_of(name) == part
            ]
            back = {name: stored for stored, own in self._stored.items() for name in own}
            assert isinstance(each.statistic, Accumulated)
            taken = collector.take(names, each.statistic)
            outcomes = {
                back[name]: Outcome(o.rows, o.axis, o.result, back[o.same_as] if o.same_as else None)
                for name, o in taken.items()
            }
            if not each.results.has(part or REST):
                each.results.write(part or REST, outcomes, each.statistic.symmetric)
        self._ready += 1
        self._tell(self._ready, self._parts, self._doing)


class _Merged(Weights):
    """The plan's own output, as far as it can be made so far."""

    def __init__(self, open_: Callable[[], Checkpoint]) -> None:
        self._open = open_
        super().__init__(open_())

    def renew(self) -> None:
        """Opens it anew, when results have been added."""
        super().__init__(self._open())


def _behind_merged(
    plan: Plan, found: Sequence[Job], open_: Sequence[_Open], merged: Callable[[], Checkpoint], tell: Tell
) -> None:
    said = section(plan)
    shell = plan.inputs[0] if plan.has_base else found[0].runs
    output = _Merged(merged)
    skeleton = Skeleton(build(shell, headless=True), shell.reference)
    if not skeleton.blocks:
        raise CalibrationError(f"{shell.reference}: expected a model of numbered blocks, found none")
    own = {job.source: [each for each in open_ if each.demand.source == job.source] for job in found}
    experts = [skeleton.fit(job.weights) for job in found]
    batches = [list(job.processor.batches(job.samples, said.batch)) for job in found]
    for job, each in zip(found, batches, strict=True):
        check_tokens(skeleton, each, job.processor.reference)
    parts = len(skeleton.blocks) * len(found)
    total = iter(range(1, parts + len(found) + 1))

    def count(*said: object) -> None:
        tell(min(next(total), parts), parts, str(said[-1]))

    watches = [
        _Watch(skeleton, fitted, own[job.source], parts, f"calibrating {job.name} behind the merged blocks", count)
        for job, fitted in zip(found, experts, strict=True)
    ]
    collectors = [Collector(w.wanted, job.model.reference) for w, job in zip(watches, found, strict=True)]

    def done(part: str | None, model: int, collector: Collector) -> None:
        watches[model].done(part, collector)
        if model + 1 == len(found):
            output.renew()

    spilled = any(spills(plan, job) for job in found)
    pass_merged(
        skeleton,
        skeleton.fit(output),
        experts,
        batches,
        collectors,
        done,
        include_padding=said.padding == "include",
        spill=_folder(plan) if spilled else None,
    )
    for every in open_:
        every.results.finish()
