"""Killed, starved, misled: an output is absent or whole, and the same command goes on where it was."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError, safe_open

import eutectic
from eutectic.engine.journal import Journal
from tests.engine.family import MEDIUM, Stop, StopAfter, base_tensors, digests, recipes, run, tuned, write
from tests.engine.victim import die_before, merge, merge_and_wait, merge_within, start

Recipe = dict[str, Any]


@pytest.fixture(scope="module")
def recipe(small: Path) -> Recipe:
    """TIES over the whole model into several files: sweeps, slices, copies and an index."""
    found = recipes(small, big=False)["rules"]
    return found | {"output": {"shard_size": "600kB"}}


@pytest.fixture(scope="module")
def whole(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(recipe, out)
    assert len(digests(out)) > 3
    return out


def staging_of(out: Path) -> Path:
    """Returns the hidden folder an output grows in."""
    return out.parent / f".{out.name}.eutectic"


def names(folder: Path) -> set[str]:
    """Returns the files of a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def check_absent_or_whole(out: Path, whole: Path) -> None:
    """Checks that there is no output or all of it, and that what is staged opens nowhere before it is whole."""
    if out.exists():
        assert digests(out) == digests(whole)
        assert names(out) == names(whole)
        return
    staging = staging_of(out)
    shards = sorted(staging.rglob("*.safetensors")) if staging.exists() else []
    unsealed = [path for path in shards if not any(path.read_bytes()[:8])]
    for path in unsealed:
        with pytest.raises(SafetensorError):
            safe_open(path, "pt")
        with pytest.raises(eutectic.CheckpointError):
            eutectic.open(path)
    if unsealed or len(shards) < len(list(whole.rglob("*.safetensors"))):
        with pytest.raises(eutectic.CheckpointError):
            eutectic.open(staging)
    elif shards:
        weights = {name: digest for name, digest in digests(whole).items() if name.endswith(".safetensors")}
        assert {name: digests(staging)[name] for name in weights} == weights


def kill_at(share: float, how: signal.Signals, recipe: Recipe, out: Path, seconds: float) -> bool:
    """Starts a merge, sends it a signal at a share of its time, and returns whether it died of it."""
    process, told = start(merge, recipe, out)
    assert told.recv() == "begins"
    handle = os.pidfd_open(process.pid)
    time.sleep(share * seconds)
    with contextlib.suppress(ProcessLookupError):  # it was faster
        signal.pidfd_send_signal(handle, how)
    os.close(handle)
    process.join(60)
    assert process.exitcode in {0, -how}
    return bool(process.exitcode)


def kill_often(points: int, recipe: Recipe, whole: Path, folder: Path, seed: int) -> None:
    """Kills and resumes runs at random points until they are whole; several kills may hit one run."""
    process, told = start(merge, recipe, folder / "timed")
    assert told.recv() == "begins"
    seconds = told.recv()
    process.join()
    draw = random.Random(seed)
    died = resumed = 0
    for point in range(points):
        out = folder / f"out {point // 2}"
        how = draw.choice([signal.SIGKILL, signal.SIGTERM])
        share = (point % 8 + draw.random()) / 8
        died += not out.exists() and kill_at(share, how, recipe, out, seconds)
        check_absent_or_whole(out, whole)
        if point % 2 or point == points - 1:
            receipt = eutectic.run(eutectic.plan(recipe), out)
            resumed += receipt.resumed
            assert not staging_of(out).exists()
            check_absent_or_whole(out, whole)
    assert died > points / 3, "most runs were over before they were killed"
    assert resumed, "no run was killed late enough to resume"


def test_killed_at_random(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """SIGKILL and SIGTERM at eight random points: nothing half done, and resuming gives the same bytes."""
    kill_often(8, recipe, whole, tmp_path, 1)


def test_killed_with_extras(small: Path, tmp_path: Path) -> None:
    """The same where there is a file for each task: they are absent, or whole and the same."""
    recipe = recipes(small, big=False)["emr of some"] | {"output": {"shard_size": "600kB"}}
    run(recipe, tmp_path / "whole")
    assert len(list((tmp_path / "whole" / "tasks").iterdir())) == 3
    kill_often(6, recipe, tmp_path / "whole", tmp_path, 3)


@pytest.mark.slow
def test_killed_at_a_hundred_random_points(big: Path, tmp_path: Path) -> None:
    """The same a hundred times, on larger tensors."""
    recipe = recipes(big, big=True)["ties model"] | {"output": {"shard_size": "5MB"}}
    run(recipe, tmp_path / "whole")
    kill_often(100, recipe, tmp_path / "whole", tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_the_same_command_resumes(how: signal.Signals, big: Path, tmp_path: Path) -> None:
    """The command line, stopped half-way and given again, ends with the bytes of an undisturbed run."""
    recipe = recipes(big, big=True)["ties model"]
    expected = run(recipe, tmp_path / "whole")
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    command = [sys.executable, "-c", "from eutectic.cli import main; main()", "merge", str(tmp_path / "recipe.json")]
    command += ["-o", str(tmp_path / "out"), "--threads", "2", "--quiet"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    journal = staging_of(tmp_path / "out") / "journal"
    while process.poll() is None and not journal.exists():
        time.sleep(0.001)
    time.sleep(0.05)
    process.send_signal(how)
    said = process.communicate()[1]
    assert b"Traceback" not in said
    check_absent_or_whole(tmp_path / "out", tmp_path / "whole")
    subprocess.run(command, check=True)
    assert digests(tmp_path / "out") == expected


def test_killed_before_every_change_of_a_folder(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """Killed right before each file that is made, opened, removed or renamed: nothing half done, the same bytes."""
    process, told = start(die_before, 0, recipe, tmp_path / "counted")
    changes = told.recv()
    process.join()
    assert changes > 15
    for change in range(1, changes + 1):
        out = tmp_path / f"out{change}"
        process, told = start(die_before, change, recipe, out)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        check_absent_or_whole(out, whole)
        run(recipe, out)
        check_absent_or_whole(out, whole)
        assert out.exists()


def stop_half_way(recipe: Recipe, out: Path, share: float = 0.7) -> Path:
    """Leaves an unfinished run and returns its staging folder."""
    with pytest.raises(Stop):
        run(recipe, out, [StopAfter(share)], threads=1)
    assert not out.exists()
    return staging_of(out)


def resume(recipe: Recipe, out: Path) -> eutectic.Receipt:
    """Runs the same command again."""
    return eutectic.run(eutectic.plan(recipe), out)


def test_torn_journal(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A journal cut at any byte of its last lines resumes from what is whole in it, twice in a row."""
    for cut in (1, 7, 60, 500):
        out = tmp_path / f"out{cut}"
        journal = stop_half_way(recipe, out, 0.5) / "journal"
        journal.write_bytes(journal.read_bytes()[:-cut])
        before = journal.read_bytes().count(b"\n")
        with pytest.raises(Stop):
            run(recipe, out, [StopAfter(0.7)], threads=1)
        again = Journal(journal, eutectic.plan(recipe).job)
        lines = sum(len(ranges) for ranges in again._done.values())
        again.close()
        assert lines > before - 5, "what the second run did is lost"
        assert resume(recipe, out).resumed
        check_absent_or_whole(out, whole)


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("damage", ["noise", "digit", "zeros", "wrong shape"])
def test_damaged_journal(place: float, damage: str, recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A damaged line is not believed, nor what follows it: the result is right all the same."""
    out = tmp_path / "out"
    journal = stop_half_way(recipe, out) / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    at = int(place * (len(lines) - 1))
    if damage == "noise":
        lines[at] = lines[at][:5] + b"\xff\x00{" + lines[at][8:]
    elif damage == "zeros":
        lines[at] = bytes(len(lines[at]) - 1) + b"\n"
    elif damage == "wrong shape":
        lines[at] = b'{"done": 5}\n'
    else:
        last = [number for number, byte in enumerate(lines[at]) if chr(byte).isdigit()][-4:][0]
        lines[at] = lines[at][:last] + (b"9" if lines[at][last : last + 1] != b"9" else b"8") + lines[at][last + 1 :]
    journal.write_bytes(b"".join(lines))
    receipt = resume(recipe, out)
    assert receipt.resumed is (at > 1)
    check_absent_or_whole(out, whole)
    assert out.exists()


def test_journal_of_another_job(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """Unfinished work of another recipe is neither used nor lost: refused, until it is discarded on purpose."""
    out = tmp_path / "out"
    staging = stop_half_way(recipe | {"seed": 5}, out)
    before = (staging / "journal").read_bytes()
    with pytest.raises(eutectic.OutputError, match=r"another job.*--fresh"):
        resume(recipe, out)
    assert (staging / "journal").read_bytes() == before
    receipt = eutectic.run(eutectic.plan(recipe), out, resume=False)
    assert not receipt.resumed
    check_absent_or_whole(out, whole)
    assert out.exists()


def test_two_processes(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A second process is told that another run is writing; the first one's output is right."""
    out = tmp_path / "out"
    process, told = start(merge_and_wait, recipe, out)
    assert told.recv() == "half-way"
    for option in (True, False):
        with pytest.raises(eutectic.OutputError, match="another run is writing there"):
            eutectic.run(eutectic.plan(recipe), out, resume=option)
    told.send("go on")
    assert told.recv() == "done"
    process.join()
    check_absent_or_whole(out, whole)
    assert out.exists()


# ---- no room ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, mounted for one test; skipped where mounting is not allowed."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    if mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)):
        pytest.skip("cannot mount a tmpfs here: needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*arguments: str) -> int:
    """Mounts, and returns the exit code."""
    try:
        return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode
    except OSError:
        return 1


def test_disk_too_small(recipe: Recipe, tmpfs: Path) -> None:
    """An output that does not fit is refused before any work, with the sizes."""
    seen: list[object] = []
    with pytest.raises(eutectic.OutputError, match=r"needs .* more, and the disk has .* free"):
        eutectic.run(eutectic.plan(recipe), tmpfs / "out", watch=[seen.append])
    assert seen == []
    assert not (tmpfs / "out").exists()


def test_disk_full_at_every_stage(recipe: Recipe, whole: Path, tmpfs: Path) -> None:
    """Room for the weights but not for all the rest: an OutputError, nothing half done; with room it goes on."""
    weights = sum(-(-path.stat().st_size // 4096) * 4096 for path in whole.glob("*.safetensors"))
    refused = 0
    for extra in range(4, 40, 4):
        assert mount("-o", f"remount,size={weights + extra * 1024}", str(tmpfs)) == 0
        try:
            run(recipe, tmpfs / "out")
            break
        except eutectic.OutputError:
            refused += 1
            check_absent_or_whole(tmpfs / "out", whole)
    else:
        assert mount("-o", f"remount,size={weights * 2}", str(tmpfs)) == 0
        run(recipe, tmpfs / "out")
    assert refused
    check_absent_or_whole(tmpfs / "out", whole)
    assert (tmpfs / "out").exists()


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_writes_that_fail(limit: int, recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A file that may not grow is an OutputError that names it; afterwards the same command gives the same bytes."""
    out = tmp_path / "out"
    process, told = start(merge_within, limit, recipe, out)
    kind, message = told.recv()
    process.join()
    assert kind == "OutputError", message
    assert str(staging_of(out)) in message
    check_absent_or_whole(out, whole)
    run(recipe, out)
    check_absent_or_whole(out, whole)
    assert out.exists()


def test_read_only_parent(recipe: Recipe, tmpfs: Path) -> None:
    """A folder that cannot be written is an OutputError, and nothing is read for it."""
    assert mount("-o", "remount,ro", str(tmpfs)) == 0
    with pytest.raises(eutectic.OutputError, match="cannot write there: Read-only"):
        run(recipe, tmpfs / "out")
    assert list(tmpfs.iterdir()) == []


# ---- inputs that change ----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Recipe:
    """A recipe over models of this test's own, which it may spoil."""
    base = base_tensors(big=False)
    for seed, name in enumerate(("base", "code", "maths")):
        write(tmp_path / name, tuned(base, seed) if seed else base)
    models = [str(tmp_path / name) for name in ("code", "maths")]
    return {"base": str(tmp_path / "base"), "models": models, "method": {"ties": {"density": 0.5}}}


def check_refused(recipe: Recipe, out: Path, path: Path, spoil: Any, share: float) -> None:
    """Runs while an observer spoils an input, and checks that no model comes of it."""
    done: list[bool] = []

    def watch(event: object) -> None:
        if not done and getattr(event, "read", 0) > share * getattr(event, "total", 0):
            done.append(True)
            spoil()

    with pytest.raises(eutectic.CheckpointError) as caught:
        run(recipe, out, [watch], threads=2)
    assert done, "the input was never spoilt"
    assert str(path) in str(caught.value)
    assert not out.exists()
    staging = staging_of(out)
    with pytest.raises(eutectic.CheckpointError):
        eutectic.open(staging)
    for shard in staging.glob("*.safetensors"):
        with pytest.raises(SafetensorError):
            safe_open(shard, "pt")
    with pytest.raises(eutectic.EutecticError):  # a broken input, or another job than the one that was begun
        run(recipe, out)
    assert not out.exists()


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("size", [0, 5000, 500_000])
def test_input_truncated(size: int, share: float, own: Recipe, tmp_path: Path) -> None:
    """An input cut short while it is read ends the run with an error that names the file."""
    path = tmp_path / "maths" / "model.safetensors"
    check_refused(own, tmp_path / "out", path, lambda: os.truncate(path, size), share)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_input_modified(share: float, own: Recipe, tmp_path: Path) -> None:
    """An input overwritten in place while it is read ends the run, although every read succeeds."""
    path = tmp_path / "code" / "model.safetensors"

    def spoil() -> None:
        with path.open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(bytes(50))

    check_refused(own, tmp_path / "out", path, spoil, share)


def test_input_replaced(own: Recipe, tmp_path: Path) -> None:
    """An input replaced by another file while it is read: the file that was opened is the one that is merged."""
    expected = run(own, tmp_path / "expected")
    path = tmp_path / "code" / "model.safetensors"

    def replace(event: object) -> None:
        if getattr(event, "read", 0):
            other = tmp_path / "other"
            other.write_bytes(path.read_bytes()[:1000])
            other.rename(path)

    assert run(own, tmp_path / "out", [replace], threads=1) == expected


def test_values_that_are_not_finite(own: Recipe, tmp_path: Path) -> None:
    """An input with a NaN ends the run with its name; what was staged opens nowhere; `keep` lets it pass and counts."""
    tensors = tuned(base_tensors(big=False), 1)
    tensors[MEDIUM][3, 5] = float("nan")
    write(tmp_path / "code", tensors)
    with pytest.raises(eutectic.CheckpointError, match=f"{MEDIUM}.*{tmp_path / 'code'}.*non_finite: keep"):
        run(own, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(eutectic.CheckpointError):
        eutectic.open(staging_of(tmp_path / "out"))
    kept = own | {"non_finite": "keep"}
    assert eutectic.run(eutectic.plan(kept), tmp_path / "kept").non_finite == {MEDIUM: 1}


def test_non_finite_counts_survive_a_stop(own: Recipe, tmp_path: Path) -> None:
    """A resumed run's receipt counts what the stopped run wrote, too."""
    tensors = tuned(base_tensors(big=False), 1)
    tensors[MEDIUM][3, 5] = float("nan")
    write(tmp_path / "code", tensors)
    kept = own | {"non_finite": "keep", "method": "task_arithmetic"}
    for share in (0.05, 0.05):  # the largest tensor is one slice, and most of all
        with pytest.raises(Stop):
            run(kept, tmp_path / "out", [StopAfter(share)], threads=1)
    assert eutectic.run(eutectic.plan(kept), tmp_path / "out").non_finite == {MEDIUM: 1}


# ---- where the output goes -------------------------------------------------------------------------------------------


def test_finished_output_again(recipe: Recipe, whole: Path) -> None:
    """The same command on its own finished output reads nothing, changes nothing and returns the same receipt."""
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in whole.rglob("*")}
    events: list[object] = []
    receipt = eutectic.run(eutectic.plan(recipe), whole, watch=[events.append])
    assert json.loads(receipt.to_json()) == json.loads((whole / "eutectic_receipt.json").read_text())
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in whole.rglob("*")} == before
    assert events == []


def test_output_of_another_recipe(recipe: Recipe, whole: Path) -> None:
    """A finished output of another job stays as it is."""
    before = digests(whole)
    with pytest.raises(eutectic.OutputError, match="another job"):
        run(recipe | {"seed": 9}, whole)
    assert digests(whole) == before


def test_output_is_an_input(recipe: Recipe, small: Path) -> None:
    """An input folder cannot be the output."""
    before = digests(small / "code")
    with pytest.raises(eutectic.OutputError, match="other files"):
        run(recipe, small / "code")
    assert digests(small / "code") == before
    assert not staging_of(small / "code").exists()


def test_output_inside_an_input(own: Recipe, tmp_path: Path) -> None:
    """A folder inside an input is allowed: nothing of the input changes."""
    run(own, tmp_path / "base" / "merged")
    assert eutectic.verify(tmp_path / "base" / "merged", sample=None).ok


def test_output_is_a_file(recipe: Recipe, tmp_path: Path) -> None:
    """A file in the way stays."""
    (tmp_path / "out").write_text("mine")
    with pytest.raises(eutectic.OutputError, match="found a file"):
        run(recipe, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_parent_is_a_file(recipe: Recipe, tmp_path: Path) -> None:
    """A file where the parent folder should be is an OutputError."""
    (tmp_path / "parent").write_text("mine")
    with pytest.raises(eutectic.OutputError):
        run(recipe, tmp_path / "parent" / "out")


def test_output_is_an_empty_folder(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """An empty folder is used, parents are made."""
    (tmp_path / "out").mkdir()
    assert run(recipe, tmp_path / "out") == digests(whole)
    assert run(recipe, tmp_path / "new" / "deep" / "out") == digests(whole)


def test_output_folder_filled_meanwhile(recipe: Recipe, tmp_path: Path) -> None:
    """Files that appear in the output folder while the run goes on are not lost."""
    out = tmp_path / "out"

    def fill(event: object) -> None:
        out.mkdir(exist_ok=True)
        (out / "mine").write_text("mine")

    with pytest.raises(eutectic.OutputError, match="cannot put the output in place"):
        run(recipe, out, [fill])
    assert names(out) == {"mine"}


def test_output_is_a_link(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A link to an empty folder is followed or refused before any work, and never ends in an error after it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    events: list[object] = []
    try:
        eutectic.run(eutectic.plan(recipe), tmp_path / "out", watch=[events.append])
        assert digests(tmp_path / "out") == digests(whole)
        assert (tmp_path / "out").is_symlink()
    except eutectic.OutputError:
        assert events == []


def test_output_is_a_dangling_link(recipe: Recipe, tmp_path: Path) -> None:
    """A link to nothing is refused, and nothing is made where it points."""
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(eutectic.OutputError):
        run(recipe, tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


def test_links_in_the_staging_folder(recipe: Recipe, whole: Path, tmp_path: Path) -> None:
    """A link planted where a weight file or the journal grows is not written through."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in ("journal", next(iter(digests(whole)))):
        out = tmp_path / f"out {name}"
        staging_of(out).mkdir()
        (staging_of(out) / name).symlink_to(victim)
        with contextlib.suppress(eutectic.OutputError):
            run(recipe, out)
        assert victim.read_bytes() == b"precious"
