"""Work shared by threads: all of it, once, in order of taking; the first error stops them all."""

import threading
import time

import pytest

from eutectic.engine.sweep import share


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_task_once(threads: int) -> None:
    """No task is lost or done twice, and several threads take part."""
    done: list[tuple[int, int]] = []

    def do(worker: int, task: int) -> None:
        time.sleep(0.0005)
        done.append((worker, task))

    share(range(100), list(range(threads)), do)
    assert sorted(task for _, task in done) == list(range(100))
    assert len({worker for worker, _ in done}) == threads


def test_nothing_to_do() -> None:
    """No tasks, no calls."""
    share([], [1, 2], lambda worker, task: pytest.fail("called"))


def test_a_worker_has_one_task_at_a_time() -> None:
    """A worker's buffers are its own."""
    busy: set[int] = set()

    def do(worker: int, task: int) -> None:
        assert worker not in busy
        busy.add(worker)
        time.sleep(0.001)
        busy.discard(worker)

    share(range(50), [0, 1, 2], do)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_stops_all(threads: int) -> None:
    """The error is raised as it is, after all threads have stopped, and the rest is not begun."""
    done: list[int] = []

    def do(worker: int, task: int) -> None:
        if task == 10:
            raise KeyError(task)
        time.sleep(0.001)
        done.append(task)

    before = threading.active_count()
    with pytest.raises(KeyError, match="10"):
        share(range(1000), list(range(threads)), do)
    assert threading.active_count() == before
    assert len(done) < 30


def test_an_error_of_the_tasks_themselves() -> None:
    """An iterator that fails ends the work with its error."""

    def tasks() -> object:
        yield 1
        raise ValueError("no more")

    for workers in ([0], [0, 1]):
        with pytest.raises(ValueError, match="no more"):
            share(tasks(), workers, lambda worker, task: None)  # type: ignore[arg-type]


def test_interrupted() -> None:
    """An interrupt of the calling thread stops the workers before it is raised."""
    begun = threading.Event()
    ended: list[int] = []

    def do(worker: int, task: int) -> None:
        if task == 3:
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.001)
        ended.append(task)

    with pytest.raises(KeyboardInterrupt):
        share(range(100_000), [0, 1], do)
    assert len(ended) < 1000
