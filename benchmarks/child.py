"""One merge in a fresh process, for the other benchmarks to measure.

    python -m benchmarks.child RECIPE.json OUT --memory 1GiB --threads 2 [--plan-only]

Prints one line of JSON: what the receipt says the run took (first byte read to the final rename), the run's CPU
seconds, and when, counted from the start of the process, the imports, the plan and the run were done.
"""

import argparse
import json
import os
import time
from importlib import import_module
from pathlib import Path


def _since_start() -> float:
    """Seconds since this process was started, by the kernel's clock."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Plans a recipe, and unless told otherwise runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--load", default=None, help="a library to import first, where its memory shall not count")
    parser.add_argument("--store", type=Path, default=None, help="folder of stored statistics of data")
    parser.add_argument("--plan-only", action="store_true", help="import everything, plan, and merge nothing")
    options = parser.parse_args()
    import eutectic

    if options.load:
        getattr(import_module(options.load), "PreTrainedModel", None)  # a lazy package loads when it is used
    imported = _since_start()
    plan = eutectic.plan(
        json.loads(options.recipe.read_text()), memory=options.memory, threads=options.threads, store=options.store
    )
    planned = _since_start()
    found = {"imported": imported, "planned": planned, "peak": int(plan.peak), "reads": int(plan.reads)}
    if not options.plan_only:
        started, cpu = time.perf_counter(), time.process_time()
        eutectic.calibrate(plan)
        calibrated = time.perf_counter() - started
        receipt = eutectic.run(plan, out=options.out)
        found |= {"seconds": receipt.seconds, "call": time.perf_counter() - started, "done": _since_start()}
        found |= {"calibrating": calibrated}
        found |= {"cpu": time.process_time() - cpu}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
