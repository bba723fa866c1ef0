"""Hub models by their headers, then in full; from a hub on this machine."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eutectic.checkpoint.open import open_checkpoint
from eutectic.checkpoint.remote import HubSource, materialise, missing
from eutectic.errors import CheckpointError
from tests.make.checkpoints import entry, raw_bytes, read, write_model
from tests.make.hub import Hub, online, serving

TENSORS = {name: np.random.default_rng(3).standard_normal((100, 400)) for name in "abcd"}


def quiet(done: int, total: int) -> None:
    """Hears of progress and says nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with `org/model`, three shards of some 400 KB, asked by this process with an empty cache."""
    with serving() as hub, online(hub.url, tmp_path / "cache"):
        hub.models["org/model"] = write_model(tmp_path / "model", TENSORS, {"model_type": "bert"}, shards=3)
        yield hub


def opened(reference: str) -> HubSource:
    """Returns the source of a hub model."""
    checkpoint = open_checkpoint(reference)
    assert checkpoint.hub == (checkpoint.source,)
    return checkpoint.hub[0]


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_before_weights(hub: Hub, tmp_path: Path, shards: int) -> None:
    """The header is the local folder's, at the price of a block a file; every byte after the download too."""
    hub.models["org/model"] = write_model(tmp_path / str(shards), TENSORS, {}, shards=shards)
    local = open_checkpoint(str(tmp_path / str(shards))).source
    source = opened("org/model")
    assert list(source.header.items()) == list(local.header.items())
    assert hub.given(".safetensors") <= shards * 65536
    files = {path.name: path.stat().st_size for path in (tmp_path / str(shards)).glob("*.safetensors")}
    assert source.absent == files
    assert source.read_cost("a") == local.read_cost("a")
    source.will_need("a", 0, 10)
    before = source.fingerprint()
    told: list[tuple[int, int]] = []
    materialise([source], lambda done, total: told.append((done, total)))
    assert told[-1] == (sum(files.values()), sum(files.values()))
    assert source.absent == {}
    assert all(np.array_equal(read(source, name), read(local, name)) for name in TENSORS)
    source.check_unchanged()
    assert source.fingerprint() == before == opened("org/model").fingerprint()
    assert source.fingerprint() != local.fingerprint()
    source.close()


def test_reading_before_the_download(hub: Hub) -> None:
    """Says file, tensor and what to do; nothing is downloaded behind the caller's back."""
    source = opened("org/model")
    given = hub.given()
    with pytest.raises(
        CheckpointError, match=r"org/model@\w+/model-00001-of-00003\.safetensors: tensor 'a' is not down"
    ):
        read(source, "a")
    source.check_unchanged()
    source.close()
    assert hub.given() == given


def test_a_file_is_downloaded_once(hub: Hub) -> None:
    """Two inputs that are one model cost one download; what is cached costs none."""
    one, two = opened("org/model"), opened("org/model@main")
    sizes = [size for _, _, size in missing([one, two])]
    assert sum(sizes) == sum(one.absent.values())
    before = hub.given(".safetensors")
    materialise([one, two], quiet)
    assert hub.given(".safetensors") - before == sum(sizes)
    assert np.array_equal(read(one, "d"), read(two, "d"))
    assert missing([one, two]) == []
    materialise([one, two], quiet)
    assert hub.given(".safetensors") - before == sum(sizes)


def test_shards_that_are_here_are_not_downloaded(hub: Hub) -> None:
    """After a download that failed at the second of three files, two are missing."""
    source = opened("org/model")
    hub.short["model-00002-of-00003.safetensors"] = 7
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: cannot be downloaded"):
        materialise([source], quiet)
    hub.short.clear()
    again = opened("org/model")
    assert sorted(again.absent) == [f"model-0000{number}-of-00003.safetensors" for number in (2, 3)]
    assert again.fingerprint() == source.fingerprint()
    materialise([again], quiet)
    assert read(again, "d").tobytes() == TENSORS["d"].tobytes()


def test_only_the_files_of_the_model(hub: Hub) -> None:
    """Weight files that the index does not list are neither looked into nor downloaded."""
    (hub.models["org/model"] / "model.fp16.safetensors").write_bytes(b"another copy")
    source = opened("org/model")
    assert "model.fp16.safetensors" not in source.absent
    materialise([source], quiet)
    assert hub.given("fp16.safetensors") == 0
    assert opened("org/model").absent == {}


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "expected at least the 8 bytes"),
        (struct.pack("<Q", 1 << 40), "announces a header of 1099511627776 bytes"),
        (struct.pack("<Q", 500) + b"{}", "only 2 follow"),
        (raw_bytes({"a": entry("F32", [2], 0, 8)}, bytes(4)), "ends at byte 8, but only 4"),
        (raw_bytes({"a": entry("F32", [2], 4, 12)}, bytes(12)), "leaves a hole"),
        (raw_bytes(b"[]"), "expected the header to begin"),
    ],
)
def test_broken_headers(hub: Hub, tmp_path: Path, data: bytes, rule: str) -> None:
    """Refused by the rules that hold for local files, before anything is downloaded; model and file are named."""
    hub.models["org/broken"] = tmp_path / "broken"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"org/broken@\w+/model\.safetensors.*{rule}"):
        open_checkpoint("org/broken")


def test_long_headers(hub: Hub, tmp_path: Path) -> None:
    """A header longer than the first block is asked for as a whole."""
    many = {f"{'layer.' * 20}{number}": np.ones(1) for number in range(600)}
    hub.models["org/many"] = write_model(tmp_path / "many", many, {})
    assert len(opened("org/many").header) == 600


def test_an_index_that_lies(hub: Hub) -> None:
    """An index that names a file which is not on the hub is an incomplete model."""
    (hub.models["org/model"] / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00003\.safetensors: no such file"):
        open_checkpoint("org/model")


def test_other_tensors_than_planned(hub: Hub) -> None:
    """A file in the cache that is not what its header said is refused."""
    source = opened("org/model")
    others = write_model(hub.models["org/model"].parent / "others", dict.fromkeys("abcd", np.ones(2)), {}, shards=3)
    for name in source.absent:
        (source.snapshot.folder / name).write_bytes((others / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"org/model@\w+: the downloaded files hold other tensors"):
        materialise([source], quiet)
