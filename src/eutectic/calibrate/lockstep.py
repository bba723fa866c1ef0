"""Forward passes of many batches that wait for one another at every block, so that each block is loaded once.

A model's own `forward` decides what happens between blocks (masks, positions, cross-attention, a second stack); it runs
in a thread for each batch, of which one moves at a time. When a thread reaches a block it hands the call over and
waits; blocks themselves run in the calling thread. So any transformers model can be passed block by block, without
code for its architecture, and between blocks only what its own forward holds is kept.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eutectic.numerics.tensors import torch


class _StoppedError(BaseException):
    """Ends a forward whose result nobody waits for any more."""


@dataclass
class Call:
    """A batch's call of a block, waiting for its answer.

    Attributes:
        batch: the batch's number.
        block: the block's name.
        args, kwargs: what the model's forward calls it with.
    """

    batch: int
    block: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class _Forward:
    """One batch's forward in its thread; it moves only while `advance` waits for it."""

    batch: int
    run: Callable[[], object]
    call: Call | None = None
    answer: Any = None
    error: BaseException | None = None
    stopped: bool = False
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _back: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def start(self, gates: dict[int, "_Forward"]) -> None:
        def body() -> None:
            self._go.acquire()
            gates[threading.get_ident()] = self
            try:
                if not self.stopped:
                    with torch.no_grad():
                        self.run()
            except _StoppedError:
                pass
            except BaseException as error:  # noqa: BLE001 - raised in the calling thread
                self.error = error
            finally:
                gates.pop(threading.get_ident(), None)
                self.call = None
                self._back.release()

        self._thread = threading.Thread(target=body, daemon=True)
        self._thread.start()

    def advance(self, answer: Any = None) -> None:
        """Lets the forward go on to its next block, or to its end."""
        self.answer = answer
        self.call = None
        self._go.release()
        self._back.acquire()
        if self.error is not None:
            raise self.error

    def reach(self, call: Call) -> Any:
        """Hands a call over, in the forward's own thread, and returns its answer."""
        self.call = call
        del call
        self._back.release()
        self._go.acquire()
        if self.stopped:
            raise _StoppedError
        answer, self.answer = self.answer, None
        return answer

    def stop(self) -> None:
        self.stopped = True
        self._go.release()
        if self._thread is not None:
            self._thread.join()


#: What is done at a block: its name, and the calls of all batches that wait there.
Visit = Callable[[str, list[Call]], None]


class Aside(Protocol):
    """Where activations are put while their batch waits."""

    def put(self, batch: int, held: object) -> None:
        """Puts the tensors within `held` away."""
        ...

    def fetch(self, batch: int) -> None:
        """Brings a batch's tensors back, where they were."""
        ...


class Lockstep:
    """Passes batches through a model, block by block.

    Args:
        blocks: the blocks by name. Their `forward` is replaced meanwhile.
        aside: where the activations of calls that wait are put; in memory if None.
    """

    def __init__(self, blocks: Mapping[str, Any], aside: "Aside | None" = None) -> None:
        self._blocks = blocks
        self._aside = aside
        self._gates: dict[int, _Forward] = {}
        self._running: list[_Forward] = []

    def run(
        self,
        forwards: Sequence[Callable[[], object]],
        visit: "Visit",
    ) -> None:
        """Runs the forwards; at each block calls `visit(name, calls)`, which must answer every call."""
        running = self._running = [_Forward(batch, run) for batch, run in enumerate(forwards)]
        originals = {name: block.forward for name, block in self._blocks.items()}
        try:
            for name, block in self._blocks.items():
                block.forward = self._gate(name, originals[name])
            for each in running:
                each.start(self._gates)
            for each in running:
                each.advance()
                self._wait(each)
            self._rounds(running, visit)
        finally:
            for name, block in self._blocks.items():
                block.forward = originals[name]
            for each in running:
                each.stop()

    def _rounds(
        self,
        running: list[_Forward],
        visit: "Visit",
    ) -> None:
        while True:
            waiting = [each for each in running if each.call is not None]
            if not waiting:
                return
            first = waiting[0].call
            assert first is not None
            here = [each for each in waiting if each.call is not None and each.call.block == first.block]
            visit(first.block, [each.call for each in here if each.call is not None])

    def bring(self, call: Call) -> None:
        """Fetches what a call was waiting with; before its block is run."""
        if self._aside is not None:
            self._aside.fetch(call.batch)

    def put(self, call: Call) -> None:
        """Puts a call aside again, when it is not answered yet."""
        if self._aside is not None:
            self._aside.put(call.batch, (call.args, call.kwargs))

    def answer(self, call: Call, value: Any) -> None:
        """Lets a call's forward go on to the next block with the block's output."""
        forward = self._running[call.batch]
        call.args, call.kwargs = (), {}  # the block's input is let go before the next block's is made
        forward.advance(value)
        self._wait(forward)

    def _wait(self, forward: _Forward) -> None:
        if forward.call is not None:
            self.put(forward.call)

    def _gate(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Any:
            forward = self._gates.get(threading.get_ident())
            if forward is None:  # the block itself, run by `visit`
                return original(*args, **kwargs)
            return forward.reach(Call(forward.batch, name, args, kwargs))

        return gated
