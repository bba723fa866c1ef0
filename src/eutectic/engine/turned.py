"""An adapter of merged generators, made as it is read."""

import threading
from collections.abc import Sequence

import numpy as np

from eutectic.adapters.adapter import Adapter
from eutectic.adapters.edits import Edit
from eutectic.adapters.oft import read_generators
from eutectic.adapters.sources import DeltaSource
from eutectic.checkpoint.ranges import find, first_byte
from eutectic.checkpoint.source import Buffer, Checkpoint
from eutectic.checkpoint.spec import TensorSpec
from eutectic.checkpoint.views import digest_of
from eutectic.errors import CheckpointError
from eutectic.numerics.precision import round_to
from eutectic.numerics.tensors import Tensor, torch
from eutectic.plan.turned import TurnedSite


class TurnedSource:
    """The output adapter's generators, by the names of its file.

    Args:
        sites: its modules.
        models: the adapters.
        name: how messages call it.
        said: whatever else decides the generators, for digests: the recipe.
        owned: what is closed with it.
    """

    def __init__(
        self,
        sites: Sequence[TurnedSite],
        models: Sequence[Checkpoint],
        name: str,
        said: str,
        owned: Sequence[Checkpoint] = (),
    ) -> None:
        self._site = {site.spec.name: site for site in sites}
        self._models, self.name, self._said, self._owned = models, name, said, owned
        self.header: dict[str, TensorSpec] = {site.spec.name: site.spec for site in sites}
        self._lock = threading.Lock()
        self._made: tuple[str, Tensor] | None = None

    def read_into(self, name: str, start: int, out: Buffer) -> None:
        """Fills `out` with the bytes of elements `start, start + 1, ...` of a module's generators.

        Raises:
            CheckpointError: when an adapter cannot be read, holds NaN or infinity, or a result does not fit.
            MismatchError: when an adapter's copy of a turned embedding is not the base's.
        """
        spec = find(self.header, name, self.name)
        first, size = first_byte(spec, start, out.size), spec.dtype.bits // 8
        values = self._merged(name).reshape(-1)[first // size : (first + out.size) // size]
        bad = round_to(values, spec.dtype.name, out)
        if bad:
            raise CheckpointError(
                f"{name}: {bad} of the merged values do not fit in {spec.dtype}; set output: dtype: float32"
            )

    def _merged(self, name: str) -> Tensor:
        with self._lock:
            if self._made is None or self._made[0] != name:
                self._made = name, self._merge(self._site[name])
            return self._made[1]

    def _merge(self, site: TurnedSite) -> Tensor:
        if site.keep is not None:
            return self._read(site.keep, site.edits[site.keep], site.spec.shape)
        numbers = [self._read(model, edit, site.spec.shape) for model, edit in enumerate(site.edits)]
        joined = site.step.method.generators
        assert joined is not None  # the plan says so
        return joined(numbers, **site.step.values)

    def _read(self, model: int, edit: Edit | None, shape: tuple[int, ...]) -> Tensor:
        """What a model stores of a module, cut to its length where it was constrained; zeros where it does not turn."""
        if edit is None or edit.turn is None:
            return torch.zeros(shape, dtype=torch.float64)
        adapter = self._adapter(model)
        if edit.full is not None:
            adapter.check_copy(edit)
        rows, columns = np.triu_indices(edit.turn.size, 1)
        return torch.from_numpy(read_generators(adapter.file, edit.turn)[:, rows, columns])

    def _adapter(self, model: int) -> Adapter:
        source = self._models[model].source
        assert isinstance(source, DeltaSource)
        return source.adapter

    def will_need(self, name: str, start: int, stop: int) -> None:
        """Does nothing: generators are small."""

    def read_cost(self, name: str) -> int:
        """Bytes of disk read to make a module's generators: each adapter's, and copies of the base with the base."""
        edits = enumerate(self._site[name].edits)
        return sum(self._adapter(model).checked_cost(edit) for model, edit in edits if edit is not None)

    def fingerprint(self) -> str:
        """A digest of what it is made from."""
        return digest_of("turned", self._said, *(model.source.fingerprint() for model in self._models))

    def check_unchanged(self) -> None:
        """Checks that no adapter changed since it was opened.

        Raises:
            CheckpointError: when one did.
        """
        for model in self._models:
            model.source.check_unchanged()

    def close(self) -> None:
        """Closes what it owns."""
        for each in self._owned:
            each.source.close()
