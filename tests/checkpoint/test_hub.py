"""Against a cache as huggingface_hub lays it out; the network is off for all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from eutectic.checkpoint.hub import fetch
from eutectic.checkpoint.open import open_checkpoint
from eutectic.errors import CheckpointError
from tests.make.checkpoints import write_model

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


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_cached_models_open_offline(snapshot: Path, revision: str | None) -> None:
    """A branch, its commit, or nothing said: the folder and the commit it is."""
    assert fetch("org/name", revision, offline=True) == (snapshot, COMMIT)
    checkpoint = open_checkpoint("org/name" if revision is None else f"org/name@{revision}", offline=True)
    assert checkpoint.revision == COMMIT
    assert checkpoint.config == {"model_type": "bert"}
    assert set(checkpoint.source.header) == {"a", "b"}


def test_what_is_not_cached(snapshot: Path) -> None:
    """With downloads off it says so; with the network away it says what the hub's client said."""
    with pytest.raises(CheckpointError, match="org/other: it is not in the cache, and downloads are off"):
        fetch("org/other", None, offline=True)
    with pytest.raises(CheckpointError, match="org/name@v2: it is not in the cache, and downloads are off"):
        fetch("org/name", "v2", offline=True)
    with pytest.raises(
        CheckpointError, match="org/other: there is no local folder of this name, it is not in the cache"
    ):
        fetch("org/other", None)


def test_a_cache_without_weights_is_no_model(snapshot: Path) -> None:
    """A tokenizer alone leaves a snapshot too."""
    for path in snapshot.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="the cached copy has no weights, and downloads are off"):
        fetch("org/name", None, offline=True)


def test_a_missing_blob_is_found_on_opening(snapshot: Path) -> None:
    """A link whose blob was deleted is an incomplete checkpoint."""
    shard = snapshot / "model-00002-of-00002.safetensors"
    os.unlink(shard.resolve())
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: no such file"):
        open_checkpoint("org/name", offline=True)


def test_impossible_names(snapshot: Path) -> None:
    """A name no hub model can have is refused without asking."""
    with pytest.raises(CheckpointError, match="is not a hub model"):
        fetch("org/na--me", None, offline=True)
