"""One site's chain of methods on slices: which statistics it still lacks, what they see, and the merged slice.

The same declarations run two ways: through the fused kernels (CPU, element-wise chains), or through the methods' own
torch functions. A plan takes one way for a site and keeps it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from eutectic.checkpoint.source import Buffer
from eutectic.engine.measurements import Measurements
from eutectic.errors import UndeclaredNeed
from eutectic.methods.declare import Locality
from eutectic.methods.extras import BIT
from eutectic.methods.site import Site
from eutectic.numerics import kernels
from eutectic.numerics.draw import Key
from eutectic.numerics.kernels import Rows
from eutectic.numerics.precision import round_to, widen
from eutectic.numerics.stages import Combination, Stage, apply
from eutectic.numerics.tensors import Tensor, load, torch
from eutectic.plan.demands import read_by
from eutectic.plan.memory import must_be_whole, part_of, site_folds
from eutectic.plan.steps import Merged
from eutectic.stats.fold import Calibrated, Norm, Scope, Seen, Statistic


@dataclass(frozen=True)
class Request:
    """A statistic that a site needs at a chain position: 0 sees the models as they are, k what k transforms made."""

    position: int
    statistic: Statistic


class Room:
    """Memory for the deltas of a slice, used again and again: what is taken and let go by turns leaves holes."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def take(self, n: int, count: int, like: Tensor) -> Tensor:
        """Returns (n, count) of the type and on the device of `like`, with anything in it; the last is lost."""
        held = self._held
        if held is None or held.numel() < n * count or held.dtype != like.dtype or held.device != like.device:
            held = self._held = like.new_empty(n * count)
        return held[: n * count].reshape(n, count)


class Chain:
    """The methods of one site with their numbers.

    Args:
        site: what the plan says of the site.
        seed: the recipe's seed.
        double: compute in float64.
        device: where torch computes; the fused kernels serve `cpu` only.
        stage: the recipe the site belongs to when that is an input of another; two stages with one seed must not
            draw the same masks, or the second would drop nothing more and rescale all the same.
        measured: what calibration found.
    """

    def __init__(
        self,
        site: Merged,
        seed: int,
        double: bool,
        device: str = "cpu",
        stage: str = "",
        measured: Measurements | None = None,
    ) -> None:
        self._measured = measured
        self.site = site
        self.part = part_of(site)
        self.key = Key(seed, f"{stage}/{site.spec.name}" if stage else site.spec.name)
        self.double = double
        self.device = device
        self.fused = site.fused and device == "cpu"
        self.whole = must_be_whole(site)
        if not self.fused or any(fold.whole for fold in site_folds(site)):
            load()
        self.lanes = 1  # threads its methods may use; set by whoever visits the site
        self.results: dict[Request, Any] = {}
        self._values: list[dict[str, Any]] = [dict(step.values) for step in site.steps]
        self._stages: tuple[Stage, ...] | None = None
        self._combination: Combination | None = None

    # ---- statistics -------------------------------------------------------------------------------------------------

    def requests(self) -> tuple[Request, ...]:
        """Returns the statistics to compute next, all of one scope; none when the site is ready to be mapped."""
        unmet = self._unmet_coefficients() or self._unmet_folds()
        whole = tuple(request for request in unmet if request.statistic.scope is Scope.MODEL)
        return whole or tuple(unmet)

    def accept(self, request: Request, result: Any) -> None:
        """Takes the result of a statistic."""
        self.results[request] = result

    def _unmet_coefficients(self) -> list[Request]:
        unmet = []
        n = len(self.site.models)
        for step, values in zip(self.site.steps, self._values, strict=True):
            for name, coefficient in step.coefficients.items():
                source = coefficient.source()
                request = Request(0, source.statistic)
                if request not in self.results:
                    unmet.append(request)
                elif name not in values:
                    values[name] = source.solve(self.results[request], n)
        return list(dict.fromkeys(unmet))

    def _unmet_folds(self) -> list[Request]:
        for position in range(len(self.site.steps)):
            wanted = list(self.folds(position).values())
            for statistic in wanted:  # what a statistic comes after is wanted too
                wanted.extend(each for each in statistic.after if each not in wanted)
            unmet = [Request(position, each) for each in wanted if Request(position, each) not in self.results]
            ready = [r for r in unmet if all(Request(position, a) in self.results for a in r.statistic.after)]
            if ready:
                return ready
        return []

    def folds(self, position: int) -> Mapping[str, Statistic]:
        return self.site.steps[position].method.folds(**self._values[position])

    def spans_model(self) -> bool:
        """Whether a statistic over the whole model is still to come, now or after others."""
        for position, step in enumerate(self.site.steps):
            ones = {name: (1.0,) * len(self.site.models) for name in step.coefficients}  # scope does not hang on them
            folds = step.method.folds(**(ones | self._values[position]))
            for fold in folds.values():
                if fold.scope is Scope.MODEL and Request(position, fold) not in self.results:
                    return True
        return any(request.statistic.scope is Scope.MODEL for request in self._unmet_coefficients())

    def sees_whole(self, request: Request) -> bool:
        """Whether a statistic is shown the whole tensor: it must see it, or a step before it must."""
        before = self.site.steps[: request.position]
        needs = (step.method.needs_for(dict(step.values)) for step in before)
        return request.statistic.whole or any(need.locality is Locality.TENSOR for need in needs)

    def seen(self, request: Request, rows: Rows) -> Seen:
        """Returns one slice as a statistic of `request` sees it."""
        results = {r.statistic: result for r, result in self.results.items() if r.position == request.position}
        key = Key(self.key.seed, self.key.name, request.position, rows.start)
        if self.fused and not request.statistic.whole:
            shown = rows.then(*self._stages_before(request.position))
            return Seen(self.part, rows.start, key, shown, _no_tensors, _no_stages, results)
        if request.statistic.whole:
            whole, shape = rows, self.site.spec.shape
        else:
            whole, shape = rows.whole() if request.position or request.statistic.by_rows else rows, (rows.count,)
        own = slice(rows.start - whole.start, rows.start - whole.start + rows.count)
        declared = self._read_at(request.position).values()

        def measured(statistic: Calibrated) -> Tensor:
            if statistic not in declared:
                raise UndeclaredNeed(f"{self.part.name}: {statistic.key} was read but not declared in calibrated")
            found: Tensor = self._measurements.read(statistic, self.site, rows.start, shape)
            return found.to(self.device, torch.float64 if self.double else torch.float32)

        def tensors() -> Tensor:
            site = self._after(whole, self._shape(whole), request.position)
            models = site.tensors.reshape(rows.n, -1)[:, own].reshape(rows.n, *shape)
            if site.anchor is None:
                return models
            return torch.cat([site.base.reshape(-1)[own].reshape(1, *shape), models])

        def after(stages: tuple[Stage, ...]) -> Tensor:
            deltas = self._after(whole, self._shape(whole), request.position).deltas
            for stage in stages:
                deltas = apply(stage, deltas, replace(key, start=whole.start))
            return deltas.reshape(rows.n, -1)[:, own].reshape(rows.n, *shape)

        return Seen(self.part, rows.start, key, None, tensors, after, results, measured)

    # ---- the map ----------------------------------------------------------------------------------------------------

    def combine(self, rows: Rows, out: Buffer, dtype: str, extras: Sequence[Buffer] = ()) -> int:
        """Writes the merged slice to `out` in output type `dtype`, rounded once.

        `extras` takes the site's extras, model after model, each of the bytes that `extras_bytes` counts; they are not
        made where none is given.

        Returns:
            How many of its elements are NaN or infinite.
        """
        if self.fused:
            if self._combination is None:
                last = len(self.site.steps) - 1
                self._stages = self._stages_before(last)
                self._combination = cast(Combination, self._describe(last))
            bits = [buffer for extra, buffer in zip(self.site.extras, extras, strict=False) if extra.dtype == BIT]
            if extras:
                self._write_numbers(self._combination, extras)
            shown = rows.then(*self._stages or ())
            return kernels.combine(shown, self._combination, out, kernels.CODES[dtype], *bits)
        shape = self._shape(rows)
        last = len(self.site.steps) - 1
        site = self._after(rows, shape, last)
        made = self.site.steps[last].method.outputs(site, **self._tensors(last, site))
        if made.merged.shape != shape:
            name = self.site.steps[last].method.name
            raise UndeclaredNeed(f"{self.site.spec.name}: {name} returned {tuple(made.merged.shape)} for {shape}")
        for extra, buffer in zip(self.site.extras, extras, strict=False):
            if extra.dtype == BIT:
                marked = made.extras[extra.name].reshape(rows.n, -1).numpy(force=True)
                buffer[:] = np.packbits(marked, axis=1, bitorder="little").reshape(-1)
            elif len(buffer):
                round_to(made.extras[extra.name], extra.dtype, buffer)
        return round_to(made.merged, dtype, out)

    def reached(self, rows: Rows, room: Room) -> tuple[Tensor, Tensor]:
        """Returns a slice as it reaches the combine: the base, (elements), and the deltas, (n, elements).

        Both may lie in the rows and in `room`, and are lost with the next slice.
        """
        if len(self.site.steps) > 1:
            site = self._after(rows, self._shape(rows), len(self.site.steps) - 1)
            return site.base.reshape(-1), site.deltas.reshape(rows.n, -1)
        base, *models = widen(rows, self.device)
        deltas = room.take(rows.n, rows.count, base)
        for delta, model, whole in zip(deltas, models, ~rows.is_delta, strict=True):
            delta.copy_(model)
            if whole:
                delta.sub_(base)
        return base, deltas

    def _write_numbers(self, described: Combination, extras: Sequence[Buffer]) -> None:
        """Writes the extras that are numbers, which the kernels have no part in."""
        whole = [(extra, buffer) for extra, buffer in zip(self.site.extras, extras, strict=False) if extra.shape]
        for (extra, buffer), numbers in zip(whole, described.numbers, strict=True):
            if len(buffer):
                with np.errstate(over="ignore"):
                    buffer[:] = np.array(numbers, {"F32": "<f4", "F64": "<f8"}[extra.dtype]).view(np.uint8)

    def _shape(self, rows: Rows) -> tuple[int, ...]:
        """The shape of a slice: the tensor's own when whole, rows of it, or flat."""
        shape = self.site.spec.shape
        if rows.count == self.part.numel:
            return shape
        width = shape[-1] if len(shape) > 1 else rows.count
        aligned = len(shape) > 1 and rows.start % width == 0 and rows.count % width == 0
        return (rows.count // width, width) if aligned else (rows.count,)

    def _describe(self, position: int) -> tuple[Stage, ...] | Combination:
        method = self.site.steps[position].method
        described = None if method.fused is None else method.fused(self._view(position), **self._values[position])
        assert described is not None  # the plan chose this way
        return described

    def _stages_before(self, position: int) -> tuple[Stage, ...]:
        stages: tuple[Stage, ...] = ()
        for step in range(position):
            stages += cast(tuple[Stage, ...], self._describe(step))
        return stages

    def _view(self, position: int) -> Site:
        """The site of one chain position without its values."""
        folds = self.folds(position)
        results = {name: self.results[Request(position, fold)] for name, fold in folds.items()}
        key, part = self.key.at(position), self.part
        return Site(part.name, len(self.site.models), key, results, width=part.width, numel=part.numel)

    def _site(self, rows: Rows, shape: tuple[int, ...]) -> Site:
        """The site before any transform, with its values on the device."""
        read = widen(rows, self.device)
        anchor = read[0].reshape(shape) if rows.has_base else None
        models = torch.stack(read[1 if rows.has_base else 0 :]).reshape(rows.n, *shape)
        are_deltas = bool(rows.is_delta.any())
        if are_deltas:
            assert anchor is not None  # the plan feeds a base wherever a delta is
            deltas = torch.from_numpy(rows.is_delta).to(models.device).reshape(-1, *[1] * len(shape))
            models = models.where(deltas, models - anchor)
        site = Site(self.site.spec.name, rows.n, self.key, {}, models, anchor, are_deltas, self.lanes)
        return replace(site, width=self.part.width, numel=self.part.numel, stacked=self.site.stacked)

    def _after(self, rows: Rows, shape: tuple[int, ...], position: int) -> Site:
        """The site as the method at `position` sees it, its transforms applied."""
        site = self._site(rows, shape)
        for step in range(position + 1):
            view = self._view(step) if step < position or self._ready(position) else None
            key = Key(self.key.seed, self.key.name, step, rows.start)
            results = {} if view is None else {**view.results, **self._of_data(step, rows.start, shape)}
            site = replace(site, key=key, results=results)
            if step < position:
                site = site.with_deltas(self.site.steps[step].method(site, **self._tensors(step, site)))
        return site

    def _of_data(self, position: int, start: int, shape: tuple[int, ...]) -> dict[str, Any]:
        """What calibration found of this slice, by the names that the method at `position` reads."""
        read = self._read_at(position)
        return {name: self._measurements.read(found, self.site, start, shape) for name, found in read.items()}

    def _read_at(self, position: int) -> Mapping[str, Calibrated | Norm]:
        """The calibrated statistics that the method at `position` reads here."""
        return read_by(self.site, self.site.steps[position])

    @property
    def _measurements(self) -> Measurements:
        if self._measured is None:
            raise UndeclaredNeed(f"{self.site.spec.name}: its method reads calibration's results, and there are none")
        return self._measured

    def _ready(self, position: int) -> bool:
        return all(Request(position, fold) in self.results for fold in self.folds(position).values())

    def _tensors(self, position: int, site: Site) -> dict[str, Any]:
        """The hyperparameters of one step as its function takes them: per-model ones as (n, 1, ..., 1)."""
        method = self.site.steps[position].method
        per_model = {p.name for p in method.parameters if p.bounds.per_model}
        return {k: site.column(v) if k in per_model else v for k, v in self._values[position].items()}


def _no_stages(_: tuple[Stage, ...]) -> Tensor:
    return _no_tensors()


def _no_tensors() -> Tensor:
    raise UndeclaredNeed("a statistic on the fused path reads rows, not tensors")
