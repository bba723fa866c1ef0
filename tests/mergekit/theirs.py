"""Runs mergekit itself, where it is installed, in an interpreter of its own: many recipes in one process."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: The variable that names `mergekit-yaml`, or the folder it is in; otherwise it is looked for on the PATH.
VARIABLE = "EUTECTIC_MERGEKIT"

_DRIVER = """
import json, os, sys, traceback
import torch, yaml
torch.set_num_threads(1)
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts.multimerge import main as several
jobs = json.load(open(sys.argv[1]))
said = []
for job in jobs:
    os.chdir(job["folder"])
    LoaderCache().loaders.clear()  # it knows models by name, and names mean others in another folder
    try:
        if job["several"]:
            arguments = [job["recipe"], "--out-path", job["out"], "-I", job["out"] + "-between", "--no-copy-tokenizer"]
            arguments.append("--no-write-model-card")  # which would ask the hub about the parents
            several.main(arguments, standalone_mode=False)
        else:
            text = open(job["recipe"]).read()
            options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(text)), job["out"], options=options)
        said.append(None)
    except BaseException as error:
        said.append(f"{type(error).__name__}: {error}")
json.dump(said, open(sys.argv[1] + ".said", "w"))
"""


def interpreter() -> Path | None:
    """Returns the Python that mergekit is installed in; None when it is not."""
    named = os.environ.get(VARIABLE)
    found = Path(named) if named else Path(shutil.which("mergekit-yaml") or "")
    script = found / "mergekit-yaml" if found.is_dir() else found
    if not script.is_file():
        return None
    first = script.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    python = Path(first.removeprefix("#!").strip())
    return python if python.is_file() else script.parent / "python"


def job(recipe: Path, out: Path, *, folder: Path, several: bool = False) -> dict[str, Any]:
    """Describes a merge: the recipe's file, the output, and the working directory."""
    return {"recipe": str(recipe), "out": str(out), "folder": str(folder), "several": several}


def run(jobs: Sequence[dict[str, Any]], place: Path) -> list[str | None]:
    """Runs merges one after another and returns, for each, why mergekit refused it, or None."""
    python = interpreter()
    assert python is not None, "ask interpreter() first"
    listed = place / "jobs.json"
    listed.write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-c", _DRIVER, str(listed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    said: list[str | None] = json.loads(Path(f"{listed}.said").read_text())
    return said
