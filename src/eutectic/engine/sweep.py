"""Work shared by threads: each takes the next task in order, and the first error stops them all."""

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
W = TypeVar("W")


def share(tasks: Iterable[T], workers: list[W], do: Callable[[W, T], None]) -> None:
    """Runs `do(worker, task)` for every task, one thread a worker; raises the first error after all have stopped."""
    queue = iter(tasks)
    lock = threading.Lock()
    failed: list[BaseException] = []

    def loop(worker: W) -> None:
        while not failed:
            try:
                with lock:
                    task = next(queue, None)
                if task is None:
                    return
                do(worker, task)
            except BaseException as error:  # noqa: BLE001 - handed to the calling thread
                failed.append(error)
                return

    if len(workers) == 1:
        loop(workers[0])
    else:
        threads = [threading.Thread(target=loop, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():  # a bare join would hold back signals
                    thread.join(0.2)
        except BaseException as error:  # noqa: BLE001 - raised once all threads have stopped
            failed.insert(0, error)
            for thread in threads:
                thread.join()
    if failed:
        raise failed[0]
