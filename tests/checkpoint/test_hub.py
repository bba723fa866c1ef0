"""Against a cache as huggingface_hub lays it out, without a network, and against a hub on this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from eutectic.checkpoint.hub import check_room, download, fetch, read_range
from eutectic.checkpoint.open import open_checkpoint
from eutectic.errors import CheckpointError, OutputError
from tests.make.checkpoints import write_model
from tests.make.hub import Hub, online, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cached model of two shards: links in a snapshot to blobs, and a branch that names its commit."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    store = tmp_path / "models--org--name"
    snapshot = store / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (store / "blobs").mkdir()
    (store / "refs").mkdir()
    (store / "refs" / "main").write_text(COMMIT)
    made = write_model(tmp_path / "made", {"a": np.ones(2), "b": np.zeros(2)}, {"model_type": "bert"}, shards=2)
    for number, path in enumerate(sorted(made.iterdir())):
        path.rename(store / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return snapshot


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with `org/model`, asked by this process with an empty cache."""
    with serving() as hub, online(hub.url, tmp_path / "cache"):
        hub.models["org/model"] = write_model(tmp_path / "model", {"w": np.arange(40.0)}, {"model_type": "bert"})
        yield hub


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_cached_models_open_offline(snapshot: Path, revision: str | None) -> None:
    """A branch, its commit, or nothing said: the folder and the commit it is."""
    found = fetch("org/name", revision, offline=True)
    assert (found.folder, found.commit, found.absent) == (snapshot, COMMIT, {})
    checkpoint = open_checkpoint("org/name" if revision is None else f"org/name@{revision}", offline=True)
    assert checkpoint.revision == COMMIT
    assert checkpoint.config == {"model_type": "bert"}
    assert set(checkpoint.source.header) == {"a", "b"}


def test_what_is_not_cached(snapshot: Path) -> None:
    """With downloads off it says so, and who switched them off."""
    with pytest.raises(CheckpointError, match=r"org/other: it is not in the cache, and downloads are off \(offline"):
        fetch("org/other", None, offline=True)
    with pytest.raises(CheckpointError, match="org/name@v2: it is not in the cache, and downloads are off"):
        fetch("org/name", "v2", offline=True)
    with pytest.raises(CheckpointError, match=r"downloads are off \(HF_HUB_OFFLINE is set\)"):
        fetch("org/other", None)


def test_a_cache_without_weights_is_no_model(snapshot: Path) -> None:
    """A tokenizer alone leaves a snapshot too."""
    for path in snapshot.glob("model*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="the cached copy has no weights, and downloads are off"):
        fetch("org/name", None, offline=True)


def test_a_missing_blob(snapshot: Path) -> None:
    """A link whose blob was deleted is an incomplete model."""
    os.unlink((snapshot / "model-00002-of-00002.safetensors").resolve())
    with pytest.raises(CheckpointError, match="org/name: the cached copy is incomplete, and downloads are off"):
        open_checkpoint("org/name", offline=True)


def test_impossible_names(snapshot: Path) -> None:
    """A name no hub model can have is refused without asking."""
    with pytest.raises(CheckpointError, match="is not a hub model"):
        fetch("org/na--me", None, offline=True)


def test_all_but_the_weights_is_fetched(hub: Hub) -> None:
    """Config, tokenizer, card and licence; not the weights, their copies, pickles or code."""
    root = hub.models["org/model"]
    for name in ("tokenizer.json", "README.md", "LICENSE", "1_Pooling/config.json"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(f'"{name}"')  # files of equal content would be downloaded once
    for name in ("consolidated.safetensors", "onnx/model.safetensors", "pytorch_model.bin", "run.py", "model.gguf"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("not to be touched")
    found = fetch("org/model", None)
    size = (root / "model.safetensors").stat().st_size
    assert (found.commit, found.absent) == (hub.commit("org/model"), {"model.safetensors": size})
    here = {str(path.relative_to(found.folder)) for path in found.folder.rglob("*") if path.is_file()}
    assert here == {"config.json", "tokenizer.json", "README.md", "LICENSE", "1_Pooling/config.json"}
    assert {name.removeprefix("org/model/") for name in hub.sent} == here


def test_what_the_hub_refuses(hub: Hub) -> None:
    """No such model, no such revision: which of the two, in one line."""
    with pytest.raises(CheckpointError, match=r"org/none: there is no local folder of this name.*has no such model"):
        fetch("org/none", None)
    with pytest.raises(CheckpointError, match=r"org/model@v9: .*it has the model, but no such revision") as refused:
        fetch("org/model", "v9")
    assert len(str(refused.value).splitlines()) == 1


def test_no_server(tmp_path: Path) -> None:
    """A hub that does not answer is named as the reason, also when a part of the model is cached."""
    with serving() as hub:
        hub.models["org/model"] = write_model(tmp_path / "model", {"w": np.ones(2)}, {})
        with online(hub.url, tmp_path / "cache"):
            fetch("org/model", None)
    with online(hub.url, tmp_path / "cache"):
        with pytest.raises(
            CheckpointError, match=r"the cached copy is incomplete, and the hub did not give it: .*refused"
        ):
            fetch("org/model", None)
        with pytest.raises(CheckpointError, match=r"it is not in the cache, and the hub did not give it: .*refused"):
            fetch("org/other", None)


def test_pickles_are_not_downloaded_unless_allowed(hub: Hub, tmp_path: Path) -> None:
    """A model that has nothing else is refused by its file's name; allowed, it is downloaded at once."""
    hub.models["org/old"] = tmp_path / "old"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"org/old@\w+/pytorch_model\.bin: is a torch pickle"):
        fetch("org/old", None)
    assert hub.given(".bin") == 0
    found = fetch("org/old", None, pickles=True)
    assert (found.folder / "pytorch_model.bin").read_bytes() == b"pickle"
    assert fetch("org/old", None, pickles=True, offline=True) == found


def test_models_without_weights(hub: Hub, tmp_path: Path) -> None:
    """Nothing to merge, and an adapter that is a pickle, are told apart."""
    for name, file in (("org/none", "model.gguf"), ("org/lora", "adapter_model.bin")):
        hub.models[name] = tmp_path / name
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_bytes(b"0")
    with pytest.raises(CheckpointError, match=r"org/none@\w+: expected weights"):
        fetch("org/none", None)
    with pytest.raises(
        CheckpointError, match=r"org/lora@\w+: expected adapter_model\.safetensors, found adapter_model"
    ):
        fetch("org/lora", None)
    assert hub.given() == 0


def test_ranges(hub: Hub) -> None:
    """The bytes that were asked for and no others; fewer are an error."""
    found = fetch("org/model", None)
    data = (hub.models["org/model"] / "model.safetensors").read_bytes()
    assert read_range(found, "model.safetensors", 3, 50) == data[3:50]
    assert hub.given(".safetensors") == 47
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: expected 30 bytes from byte \d+ on, found 10 \(trunc"
    ):
        read_range(found, "model.safetensors", len(data) - 10, len(data) + 20)
    with pytest.raises(CheckpointError, match=r"gone\.safetensors: its header cannot be read from the hub"):
        read_range(found, "gone.safetensors", 0, 8)


def test_a_broken_connection_goes_on(hub: Hub) -> None:
    """A download that breaks in the middle goes on where it was, and says how far it is."""
    found = fetch("org/model", None)
    hub.cut["model.safetensors"] = 1
    told: list[int] = []
    download(found, "model.safetensors", told.append)
    data = (hub.models["org/model"] / "model.safetensors").read_bytes()
    assert (found.folder / "model.safetensors").read_bytes() == data
    assert told
    assert max(told) <= len(data)
    assert fetch("org/model", None, offline=True).absent == {}


def test_a_short_download(hub: Hub) -> None:
    """A file that ends early is refused, and not in the cache."""
    found = fetch("org/model", None)
    hub.short["model.safetensors"] = 5
    with pytest.raises(CheckpointError, match=r"org/model@\w+/model\.safetensors: cannot be downloaded: Consistency"):
        download(found, "model.safetensors")
    with pytest.raises(CheckpointError, match="the cached copy is incomplete"):
        fetch("org/model", None, offline=True)


def test_a_full_disk(tmp_path: Path) -> None:
    """More than any disk holds is refused by name and size."""
    check_room(tmp_path, 1)
    with pytest.raises(OutputError, match=r"the models take 1048576\.0 TiB to download, and this disk has"):
        check_room(tmp_path, 2**60)
