"""Refines a merge block by block: anchors for every model, then the block that answers them as the models do.

Blocks know nothing of one another, so they are solved side by side, and a finished one is stored and not done again.
"""

import hashlib
import json
import math
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from eutectic.calibrate.anchors import Block, Group, adapt, construct, noise, twice_differentiable, weight_rows
from eutectic.calibrate.run import Tell
from eutectic.calibrate.skeleton import Fitted, Skeleton, Weights, build
from eutectic.calibrate.units import Unit, complete, names_in, units_of
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError, OverBudget
from eutectic.numerics.tensors import Tensor, one_thread, torch
from eutectic.plan.steps import Calibration
from eutectic.quantities import format_bytes, format_seconds
from eutectic.recipe.anchors import Anchors
from eutectic.stats.store import Outcome, Results, Store

#: What passes keep of a token, in copies of all widths of the block: two forward passes, and two backward ones.
_KEPT = 16
#: Multiplications and additions a second and thread, as measured on blocks of width 384.
_SPEED = 40e9
#: Bytes that libraries take for a worker.
_SLACK = 64 << 20


@dataclass
class Refinement:
    """A merge that is refined by anchors, and where its results are kept.

    Attributes:
        said: the recipe's section.
        base: the model that task vectors start from.
        models: the experts, adapters as differences.
        names: what the recipe calls them.
        under: what is refined: the recipe's merge, or the base.
        merged: the tensors that the recipe merges; no other changes.
        weights: of the task vectors, where each gets coefficients of its own.
        seed: of the recipe.
        store: the folder of results.
        budget: bytes that may be held.
        threads: blocks that may be solved at once.
    """

    said: Anchors
    base: Checkpoint
    models: tuple[Checkpoint, ...]
    names: tuple[str, ...]
    under: Checkpoint
    merged: frozenset[str]
    weights: tuple[float, ...]
    seed: int
    store: Path
    budget: int
    threads: int
    _writing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def skeleton(self) -> Skeleton:
        """The base's module, without weights."""
        return Skeleton(build(self.base, headless=True), self.base.reference)

    @cached_property
    def units(self) -> list[Unit]:
        """What is solved, one a block."""
        return units_of(self.skeleton, self.said.unit)

    @cached_property
    def fits(self) -> tuple[Fitted, Fitted, tuple[Fitted, ...]]:
        """Where base, start and experts hold the tensors of the module."""
        experts = tuple(self.skeleton.fit(Weights(model, self.base)) for model in self.models)
        return self.skeleton.fit(Weights(self.base)), self.skeleton.fit(Weights(self.under)), experts

    def trained(self, unit: Unit) -> dict[str, str]:
        """Returns the names in `under` of the tensors of a unit that change, by their names within it."""
        found = names_in(self.skeleton, self.fits[1], unit.path)
        header = self.under.source.header
        return {own: name for own, name in found.items() if name in self.merged and header[name].dtype.mergeable}

    @cached_property
    def refined(self) -> frozenset[str]:
        """The names of all tensors that change.

        Raises:
            CalibrationError: when there are none.
        """
        found = frozenset(name for unit in self.units for name in self.trained(unit).values())
        if not found:
            raise CalibrationError(f"{self.base.reference}: expected blocks that the recipe merges, found none")
        return found

    def anchors(self, model: int) -> Results:
        """Where a model's anchors are kept; they depend on it, the base and how they are made."""
        said = self.said.making()
        facts = {
            "statistic": "anchors",
            "model": self.names[model],
            "weights": [self.base.source.fingerprint(), Weights(self.models[model], self.base).fingerprint],
            "data": "its own weights" if self.said.init == "weights" else f"noise of {float(self.said.sigma):g}",
            "samples": self.said.count,
            "making": said,
            "seed": self.seed,
        }
        return Store(self.store).results(facts)

    def blocks(self) -> Results:
        """Where the refined blocks are kept."""
        how = {"distance": self.said.distance, "epochs": self.said.epochs, "rate": self.said.pace}
        facts = {
            "statistic": "blocks refined",
            "model": ", ".join(self.names),
            "weights": self.under.source.fingerprint(),
            "data": "their anchors",
            "samples": self.said.count * len(self.models),
            "anchors": [self.anchors(model).digest for model in range(len(self.models))],
            "adaptation": how | {"batch": self.said.batch, "start": self.said.start, "weights": list(self.weights)},
            "tensors": hashlib.sha256("\0".join(sorted(self.refined)).encode()).hexdigest(),
        }
        return Store(self.store).results(facts)

    @property
    def groups(self) -> int:
        """Coefficients an element: none from the base, one of a merge, or one a model."""
        return {"base": 0, "merged": 1, "models": len(self.models)}[self.said.start]

    def anchor_tokens(self, unit: Unit) -> int:
        """Tokens of an anchor, before any pass."""
        if self.said.unit == "mlp":
            return 1
        config = self.base.config
        parts = [part for part in (config, *config.values()) if isinstance(part, Mapping)]
        for part in parts:
            size, patch = part.get("image_size"), part.get("patch_size")
            if isinstance(size, int) and isinstance(patch, int) and patch > 0:
                return max((size // patch) ** 2 + 1, self.said.tokens)
        return self.said.tokens

    def held(self, unit: Unit) -> int:
        """Bytes that solving one unit holds at most."""
        shapes = [tuple(p.shape) for p in unit.module.parameters()]
        block = 4 * sum(math.prod(shape) for shape in shapes)
        widths = sum(shape[0] for shape in shapes if len(shape) > 1) + sum(s[-1] for s in shapes if len(s) > 1)
        tokens = self.anchor_tokens(unit)
        rows, all_rows = self.said.count * tokens, self.said.count * tokens * len(self.models)
        square = self.said.count * tokens * tokens * 16  # weights of attention, heads together
        making = 12 * block + 4 * rows * widths * _KEPT + 4 * square * _KEPT
        batch = min(self.said.batch, self.said.count * len(self.models)) * tokens
        kept = 4 * widths * batch * 3 + 8 * all_rows * max((s[-1] for s in shapes), default=1)
        fitting = block * (8 + 6 * self.groups) + kept
        return int(max(making, fitting)) + _SLACK

    def operations(self) -> float:
        """Multiplications and additions of what is still to be done."""
        blocks, found = self.blocks(), 0.0
        for unit in self.units:
            size = sum(p.numel() for p in unit.module.parameters())
            rows = self.said.count * self.anchor_tokens(unit)
            for model in range(len(self.models)):
                # Two forward passes, one backward, and the backward of those: about four forward passes' worth each.
                found += 0.0 if self.anchors(model).has(unit.name) else self.said.steps * 20.0 * size * rows
                found += 0.0 if blocks.has(unit.name) else self.said.epochs * 6.0 * size * rows
        return found

    def prepare(self) -> Calibration:
        """Returns what refining does and costs. Builds the module, reads headers, runs nothing.

        Raises:
            CalibrationError: when tensors do not fit the module, or there are no blocks.
            OverBudget: when one block takes more than the budget.
        """
        blocks = self.blocks()
        anchors = [self.anchors(model) for model in range(len(self.models))]
        worst = max(self.held(unit) for unit in self.units)
        rest = self.skeleton.nbytes(None) + max(self.skeleton.nbytes(unit.name) for unit in self.units)
        least = max(worst, rest + _SLACK)
        if least > self.budget:
            raise OverBudget(
                f"{self.base.reference}: solving one block from anchors takes {format_bytes(least)}, and the budget is "
                f"{format_bytes(self.budget)}; give at least --memory {-(-least // 2**20)}MiB, or take fewer anchors",
                least,
            )
        workers = self.workers()
        operations = self.operations()
        size = sum(self.said.count * self.anchor_tokens(unit) for unit in self.units) * 4 * _width(self.units[0])
        said = [
            f"{name}: {self.said.count} anchors of {self.anchor_tokens(self.units[0])} tokens for each of "
            f"{len(self.units)} blocks, {self.said.steps} steps, {format_bytes(size)} stored"
            f"{' already' if each.finished else ''}"
            for name, each in zip(self.names, anchors, strict=True)
        ]
        seconds = format_seconds(operations / _SPEED / workers)
        done = ", stored already" if blocks.finished else f", about {seconds} to do"
        said.append(
            f"{len(self.units)} blocks from {self.said.start}, {self.said.epochs} epochs, {workers} at once{done}"
        )
        digests = (*(each.digest for each in anchors), blocks.digest)
        finished = (*(each.finished for each in anchors), blocks.finished)
        digest = hashlib.sha256(json.dumps(digests).encode()).hexdigest()
        peak = 0 if blocks.finished else max(workers * worst, rest + _SLACK)
        return Calibration(self.store, digests, finished, tuple(said), peak, operations, digest, digest)

    def workers(self) -> int:
        """Blocks that are solved at once: as many as threads and memory allow."""
        worst = max(self.held(unit) for unit in self.units)
        return max(1, min(self.threads, len(self.units), self.budget // worst))

    def run(self, tell: Tell) -> None:
        """Solves every block that is not stored, and its anchors; stopped, it goes on with what is missing.

        Raises:
            CalibrationError: when a loss is not finite.
            OutputError: when the store cannot be written; what is there stays for the next run.
        """
        blocks = self.blocks()
        if blocks.finished:
            return
        open_ = [unit for unit in self.units if not blocks.has(unit.name)]
        stop = threading.Event()
        with one_thread(), twice_differentiable(), ThreadPoolExecutor(self.workers()) as pool:
            if self.said.unit == "block" and open_:
                complete(self.skeleton, self.fits[0], self.units, self.said.tokens)
            running = [pool.submit(self._solve, unit, stop) for unit in open_]
            try:
                for done, each in enumerate(as_completed(running), len(self.units) - len(open_) + 1):
                    each.result()
                    tell(done, len(self.units), "solving blocks from anchors")
            finally:
                stop.set()
                for each in running:
                    each.cancel()
        for model in range(len(self.models)):
            self.anchors(model).finish()
        blocks.finish()

    def _solve(self, unit: Unit, stop: threading.Event) -> None:
        def block(tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            if stop.is_set():  # another block failed, or the run was interrupted: nobody waits for this one
                raise CancelledError
            return unit(tensors, inputs)

        base_fit, under_fit, experts = self.fits
        base = unit.read(self.skeleton, base_fit)
        pairs: list[tuple[Tensor, Tensor]] = []
        differences = []
        for model, fitted in enumerate(experts):
            expert = unit.read(self.skeleton, fitted)
            found = self._anchors(unit, block, model, base, expert)
            if self.said.start == "models":
                differences.append({name: expert[name] - base[name] for name in base})
            if found is not None:
                with torch.no_grad():
                    pairs.append((found, block(expert, found)))
        trained = self.trained(unit)
        start = unit.read(self.skeleton, under_fit)
        groups = [Group(each, weight) for each, weight in zip(differences, self.weights, strict=True)]
        if self.said.start == "merged":
            groups = [Group({name: start[name] - base[name] for name in base}, 1.0)]
        # What is not trained stays as it is in what is refined.
        fixed = {name: base[name] if name in trained else start[name] for name in base}
        result = {name: start[name] for name in trained}
        if pairs and trained:
            result = self._adapt(unit, block, fixed, pairs, list(trained), groups)
        self._write(self.blocks(), unit.name, {trained[n]: Outcome(len(pairs), 0, t) for n, t in result.items()})

    def _adapt(
        self,
        unit: Unit,
        block: Block,
        base: Mapping[str, Tensor],
        pairs: list[tuple[Tensor, Tensor]],
        trained: list[str],
        groups: list[Group],
    ) -> dict[str, Tensor]:
        said = self.said
        return adapt(
            block,
            base,
            pairs,
            trained,
            groups=groups,
            distance=said.distance,
            epochs=said.epochs,
            rate=said.pace,
            batch=said.batch,
            generator=self._generator(unit, "order"),
        )

    def _anchors(
        self, unit: Unit, block: Block, model: int, base: Mapping[str, Tensor], expert: Mapping[str, Tensor]
    ) -> Tensor | None:
        """A model's anchors for a block, made or read; None where it changes nothing."""
        results = self.anchors(model)
        if not results.has(unit.name):
            outcomes: dict[str, Outcome] = {}
            if any(bool((expert[name] != base[name]).any()) for name in base):
                said = self.said
                generator = self._generator(unit, self.names[model])
                shape = (said.count, *unit.shape)
                if said.init == "weights":
                    start = weight_rows(expert, shape, generator)
                else:
                    start = noise(shape, float(said.sigma), generator)
                try:
                    found = construct(
                        block, base, expert, start, distance=said.align, steps=said.steps, rate=float(said.step_size)
                    )
                except CalibrationError as error:
                    raise CalibrationError(f"{self.names[model]}: {unit.name}: {error}") from error
                losses = torch.tensor([found.first, found.loss]) / len(found.cosines)
                outcomes = {
                    f"{unit.name}.anchors": Outcome(said.count, 0, found.inputs),
                    f"{unit.name}.start": Outcome(said.count, 0, start),
                    f"{unit.name}.losses": Outcome(said.count, 0, losses),
                }
            self._write(results, unit.name, outcomes)
        name = f"{unit.name}.anchors"
        return results.measured(name).load() if name in results else None

    def _write(self, results: Results, part: str, outcomes: Mapping[str, Outcome]) -> None:
        with self._writing:
            results.write(part, outcomes)

    def _generator(self, unit: Unit, what: str) -> "torch.Generator":
        """A stream of its own for everything that is drawn, whichever block is solved first."""
        text = f"{self.seed}\0{unit.name}\0{what}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")
        return torch.Generator().manual_seed(number)


def _width(unit: Unit) -> int:
    return min((max(1, p.shape[-1]) for p in unit.module.parameters()), default=1)
