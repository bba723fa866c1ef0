"""The copy limit: the least a merge can cost on this disk. Every input byte is read once, the output is written once.

    python -m benchmarks.copy_limit --threads 2 --to /tmp/copy BASE EXPERT EXPERT ...

On each thread a plain loop takes the next block, reads it from every input into a buffer it reuses, and writes the
first input's block to the same place of a preallocated file. A thread beside them syncs what is written every second,
so that the disk works from the start and not only at the end, as in a merge; at the end come fsync and a rename.
Only weight files count. The inputs have one layout (as `make_models` writes them).
"""

import argparse
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Limit:
    """What copying took.

    Attributes:
        seconds: from the first byte read to the rename.
        cpu: user and system seconds of all threads in that time.
        read: bytes read.
        written: bytes written.
    """

    seconds: float
    cpu: float
    read: int
    written: int


def copy_limit(inputs: list[Path], to: Path, threads: int, block: int = 1 << 20) -> Limit:
    """Copies the first input to the folder `to` while reading all of them."""
    names = sorted(path.name for path in inputs[0].glob("*.safetensors"))
    partial = to.with_name(f".{to.name}.partial")
    partial.mkdir(parents=True)
    readers = [[os.open(folder / name, os.O_RDONLY) for name in names] for folder in inputs]
    writers = [os.open(partial / name, os.O_WRONLY | os.O_CREAT, 0o644) for name in names]
    sizes = [[os.fstat(fd).st_size for fd in files] for files in readers]
    started, cpu = time.perf_counter(), time.process_time()
    for writer, size in zip(writers, sizes[0], strict=True):
        os.posix_fallocate(writer, 0, size)
    blocks = ((file, at) for file in range(len(names)) for at in range(0, max(s[file] for s in sizes), block))
    workers = [threading.Thread(target=_copy, args=(_shared(blocks), readers, writers, block)) for _ in range(threads)]
    stop = threading.Event()
    syncing = threading.Thread(target=_sync_often, args=(stop, writers))
    for worker in (syncing, *workers):
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    syncing.join()
    for writer in writers:
        os.fsync(writer)
    partial.rename(to)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    for fd in (*writers, *(fd for files in readers for fd in files)):
        os.close(fd)
    return Limit(seconds, cpu, sum(map(sum, sizes)), sum(sizes[0]))


_lock = threading.Lock()


def _shared(blocks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Hands the next block to whichever thread asks."""
    while True:
        with _lock:
            item = next(blocks, None)
        if item is None:
            return
        yield item


def _copy(blocks: Iterator[tuple[int, int]], readers: list[list[int]], writers: list[int], block: int) -> None:
    buffer = memoryview(bytearray(block))
    for file, at in blocks:
        for model in reversed(range(len(readers))):
            count = os.preadv(readers[model][file], [buffer], at)
        done = 0
        while done < count:  # the first input's block is the one read last
            done += os.pwrite(writers[file], buffer[done:count], at + done)


def _sync_often(stop: threading.Event, writers: list[int]) -> None:
    while not stop.wait(1.0):
        for writer in writers:
            os.fdatasync(writer)


def main() -> None:
    """Copies once, removes the copy and prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", type=Path, nargs="+", help="model folders of one layout; the first is copied")
    parser.add_argument("--to", type=Path, required=True, help="folder to write, removed afterwards")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--block", type=int, default=1 << 20, help="bytes per read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    limit = copy_limit(options.inputs, options.to, options.threads, options.block)
    shutil.rmtree(options.to)
    if options.json:
        print(json.dumps(asdict(limit)))
    else:
        print(f"{limit.seconds:.2f} s, {limit.cpu:.2f} CPU s: read {limit.read:,} bytes, wrote {limit.written:,}")


if __name__ == "__main__":
    main()
