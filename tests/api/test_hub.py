"""Merging models of a hub end to end: planned from headers, downloaded by the run, offline afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import eutectic
from eutectic.api.runs import Event, Progress
from tests.make.adapters import factors, write_adapter
from tests.make.hub import Hub, online, serving
from tests.plan.small import Q, tensors, write

NAMES = ("base", "code", "maths")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with three models of 1 MiB in two types, and an adapter; the working directory is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with serving() as hub:
        for number, name in enumerate(NAMES):
            random = torch.Generator().manual_seed(number)
            sizes = {key: (500, 400) if value.dim() == 2 else (400,) for key, value in tensors().items()}
            sizes |= {Q.format(0): (400, 400), Q.format(1): (400, 400)}
            own = {key: torch.randn(size, generator=random).bfloat16() for key, size in sizes.items()}
            write(tmp_path / "served", name, own, vocab_size=500)
            hub.models[f"org/{name}"] = tmp_path / "served" / name
        (tmp_path / "served" / "base" / "README.md").write_text("---\nlicense: mit\n---\n")
        lora = write_adapter(tmp_path / "served" / "lora", factors(Q.format(1).removesuffix(".weight"), 400, 400))
        hub.models["org/lora"] = lora
        with online(hub.url, tmp_path / "cache"):
            yield hub


def merged(models: dict[str, str], out: str, method: str = "ties") -> Path:
    """Merges code and maths around base."""
    recipe = eutectic.merge([models["code"], models["maths"]], base=models["base"], method=method)
    eutectic.run(eutectic.plan(recipe, memory="1 GiB"), out)
    return Path(out)


def weights(folder: Path) -> bytes:
    """Returns what follows the header of an output's weights; the header has the recipe in it."""
    data = (folder / "model.safetensors").read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_from_headers_to_the_same_bytes(hub: Hub) -> None:
    """Planning takes headers and says what is to come; the run takes the rest once; then no server is needed."""
    remote = {name: f"org/{name}@main" if name == "code" else f"org/{name}" for name in NAMES}
    recipe = eutectic.merge([remote["code"], remote["maths"]], base=remote["base"], method="ties")
    plan = eutectic.plan(recipe, memory="1 GiB")
    total = sum((hub.models[f"org/{name}"] / "model.safetensors").stat().st_size for name in NAMES)
    assert hub.given(".safetensors") <= 3 * 65536 < total / 10
    assert plan.downloads == plan.describe()["downloads"] == total
    assert sum(plan.describe()["downloads_by_input"].values()) == total
    text = " ".join(plan.explain().split())
    assert "MiB to download first" in text
    assert "org/base (base, 1" in text
    before = hub.given(".safetensors")
    events: list[Event] = []
    receipt = eutectic.run(plan, "out", watch=[events.append])
    assert hub.given(".safetensors") - before == total
    told = [event for event in events if isinstance(event, Progress) and event.doing == "downloading"]
    assert (told[-1].read, told[-1].total) == (total, total)
    assert [each["revision"] for each in receipt.inputs] == [hub.commit(f"org/{name}") for name in NAMES]
    assert "| org/base | base |" in (Path("out") / "README.md").read_text()
    local = merged({name: str(hub.models[f"org/{name}"]) for name in NAMES}, "local")
    assert weights(Path("out")) == weights(local)
    hub.models.clear()  # from here on the hub has nothing
    again = eutectic.plan(recipe, memory="1 GiB", offline=True)
    assert (again.downloads, again.job) == (0, plan.job)
    assert "nothing to download" in again.explain()
    assert eutectic.run(again, "out").job == receipt.job
    assert eutectic.verify("out", sample=None).ok


def test_a_finished_output_needs_no_download(hub: Hub, tmp_path: Path) -> None:
    """The same job on a machine whose cache was emptied is done already."""
    models = {name: f"org/{name}" for name in NAMES}
    merged(models, "out", "linear")
    with online(hub.url, tmp_path / "another cache"):
        before = hub.given(".safetensors")
        merged(models, "out", "linear")
        assert hub.given(".safetensors") - before <= 3 * 65536
        with pytest.raises(eutectic.OutputError, match="another job"):
            merged(models, "out", "ties")


def test_stages_and_adapters(hub: Hub) -> None:
    """A stage's models and a base under an adapter are downloaded by the run, an adapter when it is planned."""
    assert len(eutectic.inspect("org/code").header) == 5
    inner = {"models": ["org/code", "org/maths"], "method": "linear"}
    recipe = eutectic.merge([{"recipe": inner}, "org/base+org/lora", "org/lora"], base="org/base", method="linear")
    plan = eutectic.plan(recipe, memory="1 GiB")
    assert plan.downloads == sum((hub.models[f"org/{n}"] / "model.safetensors").stat().st_size for n in NAMES)
    assert hub.given("adapter_model.safetensors") > 0
    eutectic.run(plan, "out")
    inner = {"models": [str(hub.models["org/code"]), str(hub.models["org/maths"])], "method": "linear"}
    base, lora = str(hub.models["org/base"]), str(hub.models["org/lora"])
    same = eutectic.merge([{"recipe": inner}, f"{base}+{lora}", lora], base=base, method="linear")
    eutectic.run(eutectic.plan(same, memory="1 GiB"), "local")
    assert weights(Path("out")) == weights(Path("local"))


def test_compared_models_are_downloaded(hub: Hub) -> None:
    """Reading a hub model takes it; equal to its local copy."""
    assert hub.given() == 0
    found = eutectic.diff("org/code", hub.models["org/code"])
    assert len(found) == 5
    assert all(each.distance == 0 for each in found)


def test_the_commit_that_was_planned_is_run(hub: Hub) -> None:
    """When the branch moves on between plan and run, the old commit is asked for, which this hub no longer has."""
    recipe = eutectic.merge(["org/code", "org/maths"], method="linear")
    plan = eutectic.plan(recipe, memory="1 GiB")
    hub.models["org/code"] = hub.models["org/base"]
    with pytest.raises(
        eutectic.CheckpointError, match=r"org/code@\w+/model.safetensors: cannot be downloaded: it has the"
    ):
        eutectic.run(plan, "out")
    assert not Path("out").exists()


def command(hub: Hub, cache: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line in a fresh process, whose hub is this one."""
    own = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-c", "from eutectic.cli import main; main()", *arguments],
        env=os.environ | own | changes, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_line(hub: Hub, tmp_path: Path) -> None:
    """Plan, merge, and merge offline in fresh processes, with nothing but the environment to say where the hub is."""
    cache = tmp_path / "home"
    Path("recipe.yaml").write_text("base: org/base\nmodels: [org/code, org/maths]\nmethod: task_arithmetic\n")
    off = command(hub, cache, "merge", "recipe.yaml", "-o", "out", "--offline")
    assert (off.returncode, off.stdout) == (2, "")
    assert "org/base: it is not in the cache, and downloads are off (offline was asked for)" in off.stderr
    planned = command(hub, cache, "plan", "recipe.yaml", "--json")
    assert (planned.returncode, planned.stderr) == (0, "")
    assert json.loads(planned.stdout)["downloads"] > 3 << 20
    assert hub.given(".safetensors") <= 3 * 65536
    done = command(hub, cache, "merge", "recipe.yaml", "-o", "out")
    assert (done.returncode, done.stderr) == (0, "")
    hub.models.clear()
    again = command(hub, cache, "merge", "recipe.yaml", "-o", "again", HF_HUB_OFFLINE="1")
    assert (again.returncode, again.stderr) == (0, "")
    assert (Path("again") / "model.safetensors").read_bytes() == (Path("out") / "model.safetensors").read_bytes()
