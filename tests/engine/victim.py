"""Merges in processes of their own, made to die or to fail. Started by a fork server that has everything loaded."""

import os
import resource
import signal
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import eutectic
from eutectic.engine import run as engine
from tests.make.checkpoints import write_model

#: Audit events that change what is in a folder.
CHANGES = {"open", "os.mkdir", "os.remove", "os.rename", "os.truncate", "os.rmdir"}


def warm() -> None:
    """Merges a tiny model, so that kernels are loaded before the server forks."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = [str(write_model(root / name, {"a.weight": torch.ones(4, 4).bfloat16()}, {})) for name in "abc"]
        chain = [{"dare": {"density": 0.5}}, {"ties": {"density": 0.5}}]
        eutectic.run(eutectic.plan(eutectic.merge(names[1:], base=names[0], method=chain), threads=1), root / "out")


def slowly(event: object) -> None:
    """An observer that gives signals time to arrive."""
    time.sleep(0.004)


def merge(recipe: dict[str, Any], out: Path, told: Connection) -> None:
    """Merges slowly, with a sync every moment, and says when it begins and ends."""
    engine.SYNC_EVERY = 0.02
    plan = eutectic.plan(recipe, threads=2)
    told.send("begins")
    receipt = eutectic.run(plan, out, watch=[slowly])
    told.send(receipt.seconds)


def merge_and_wait(recipe: dict[str, Any], out: Path, told: Connection) -> None:
    """Merges, and half-way waits to be told to go on."""

    def wait(event: object) -> None:
        if getattr(event, "read", 0) and not waited:
            waited.append(True)
            told.send("half-way")
            told.recv()

    waited: list[bool] = []
    eutectic.run(eutectic.plan(recipe, threads=1), out, watch=[wait])
    told.send("done")


def die_before(change: int, recipe: dict[str, Any], out: Path, told: Connection) -> None:
    """Merges, and is killed right before the n-th change to the folder that holds the output; says how many."""
    seen = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in CHANGES and (event == "os.truncate" or str(out.parent) in str(arguments[0])):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    plan = eutectic.plan(recipe, threads=2)
    sys.addaudithook(watch)
    eutectic.run(plan, out)
    told.send(seen)


def merge_within(limit: int, recipe: dict[str, Any], out: Path, told: Connection) -> None:
    """Merges where no file may grow beyond a limit; says which error came of it."""
    plan = eutectic.plan(recipe, threads=2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        eutectic.run(plan, out)
        told.send(None)
    except (eutectic.EutecticError, OSError) as error:
        told.send((type(error).__name__, str(error)))


def start(what: Any, *arguments: Any) -> tuple[Any, Connection]:
    """Starts one of these functions in a process of its own; returns the process and the connection it tells on."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.warmed"])
    ours, theirs = context.Pipe()
    process = context.Process(target=what, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours
