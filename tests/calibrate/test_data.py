import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eutectic.calibrate.data import Columns, read_arrays, read_samples
from eutectic.errors import CalibrationError

ROWS = [{"text": "one two", "label": 1}, {"text": "three", "label": 0}, {"text": "four", "label": 1}]
LABELLED = Columns(label="label")


def jsonl(path: Path) -> Path:
    """Writes JSON lines."""
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


def json_list(path: Path) -> Path:
    """Writes a JSON list."""
    path.write_text(json.dumps(ROWS))
    return path


def table(path: Path) -> Path:
    """Writes a table with commas or tabs."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"], delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def zipped(path: Path) -> Path:
    """Writes JSON lines, compressed."""
    with gzip.open(path, "wt") as file:
        file.write("\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", jsonl), ("a.json", json_list), ("a.csv", table), ("a.tsv", table), ("a.jsonl.gz", zipped)],
)
def test_tables(name: str, write: Callable[[Path], Path], tmp_path: Path) -> None:
    """Every kind of table gives the same samples and the same digest."""
    found = read_samples(str(write(tmp_path / name)), 9, columns=LABELLED)
    assert [row.text for row in found.rows] == ["one two", "three", "four"]
    assert [row.label for row in found.rows] == [1, 0, 1]
    assert found.digest == read_samples(str(jsonl(tmp_path / "same.jsonl")), 9, columns=LABELLED).digest


def test_parquet_tables(tmp_path: Path) -> None:
    """Parquet, where pyarrow is installed."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    found = read_samples(str(tmp_path / "a.parquet"), 2, columns=LABELLED)
    assert [row.text for row in found.rows] == ["one two", "three"]


def test_parquet_needs_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow the message says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(CalibrationError, match=r"pip install 'eutectic\[data\]'"):
        read_samples(str(tmp_path / "a.parquet"), 2)


def test_lines_of_text(tmp_path: Path) -> None:
    """One text a line; empty lines are none; relative paths start from the root."""
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert [row.text for row in read_samples("a.txt", 9, root=tmp_path).rows] == ["one", "two"]


def test_which_samples(tmp_path: Path) -> None:
    """The first so many; with a seed some drawn from all, the same every time, in file order."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(f"t{at:02}" for at in range(40)))
    assert [row.text for row in read_samples(str(path), 3).rows] == ["t00", "t01", "t02"]
    drawn = [row.text for row in read_samples(str(path), 10, seed=1).rows]
    assert drawn == sorted(str(text) for text in drawn)
    assert drawn == [row.text for row in read_samples(str(path), 10, seed=1).rows]
    assert drawn != [row.text for row in read_samples(str(path), 10, seed=2).rows]
    assert len(read_samples(str(path), 99, seed=1).rows) == 40


def test_digests_are_of_content(tmp_path: Path) -> None:
    """Another text, another label or another order is another digest; another name is not."""
    found = {read_samples(str(jsonl(tmp_path / "a.jsonl")), 9).digest}
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[::-1]))
    found |= {read_samples(str(tmp_path / "b.jsonl"), 9).digest, read_samples(str(tmp_path / "a.jsonl"), 2).digest}
    found |= {read_samples(str(tmp_path / "a.jsonl"), 9, columns=LABELLED).digest}
    assert len(found) == 4


def test_images(tmp_path: Path) -> None:
    """Files of a folder; those in folders of their own are labelled, and classes take turns."""
    for name in ("cat/1.png", "cat/2.png", "dog/1.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = read_samples(str(tmp_path), 3).rows
    assert [(row.image.relative_to(tmp_path).as_posix(), row.label) for row in found if row.image] == [
        ("cat/1.png", 0),
        ("dog/1.jpg", 1),
        ("cat/2.png", 0),
    ]


def test_images_of_a_table_lie_beside_it(tmp_path: Path) -> None:
    """With a text: what CLIP is shown."""
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "a.jsonl").write_text('{"image": "x.png", "text": "an x"}')
    (row,) = read_samples(str(tmp_path / "a.jsonl"), 1).rows
    assert (row.image, row.text) == (tmp_path / "x.png", "an x")


def test_ready_inputs(tmp_path: Path) -> None:
    """Arrays by name, one row a sample; `labels` are labels; floats become float32."""
    save_file(
        {"pixel_values": torch.rand(4, 3, 2, 2, dtype=torch.float64), "labels": torch.arange(4)},
        tmp_path / "a.safetensors",
    )
    np.savez(tmp_path / "a.npz", input_ids=np.arange(6).reshape(2, 3))
    np.save(tmp_path / "a.npy", np.zeros((2, 5), np.float32))
    rows = read_samples(str(tmp_path / "a.safetensors"), 9).rows
    assert [row.label for row in rows] == [0, 1, 2, 3]
    assert rows[0].inputs is not None
    assert rows[0].inputs["pixel_values"].dtype == np.float32
    second = read_samples(str(tmp_path / "a.npz"), 9).rows[1].inputs
    assert second is not None
    assert second["input_ids"].tolist() == [3, 4, 5]
    assert len(read_samples(str(tmp_path / "a.npy"), 9).rows) == 2
    assert read_arrays(tmp_path / "a.npz")["input_ids"].shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl", b'{"text": 1}', "row 1: expected text, found int"),
        ("a.jsonl", b'{"text": "a"}\nnonsense', "row 2 is not JSON"),
        ("a.jsonl", b"[1]", "row 1: expected a JSON object"),
        ("a.jsonl", b'{"txt": "a"}', "expected a column 'text' or 'image', found txt; did you mean 'txt'"),
        ("a.jsonl", b"\xff\xfe", "expected UTF-8"),
        ("a.json", b'{"text": "a"}', "expected a JSON list of objects"),
        ("a.json", b"[" * 100000, "expected a JSON list of objects"),
        ("a.csv", b"", "found none"),
        ("a.npz", b"PK", "expected arrays of numbers"),
        ("a.npy", b"\x93NUMPY", "expected arrays of numbers"),
        ("a.safetensors", b"\x00" * 8, "expected the header"),
        ("a.docx", b"", "expected a file ending in"),
    ],
)
def test_broken_files(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    """Each is named with what was expected."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=match):
        read_samples(str(tmp_path / name), 5)


def test_what_does_not_belong_together(tmp_path: Path) -> None:
    """Arrays of different lengths, a pickle among arrays, an empty folder, no file."""
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3)), y=np.zeros((3, 3)))
    with pytest.raises(CalibrationError, match="one row a sample"):
        read_samples(str(tmp_path / "a.npz"), 5)
    np.save(tmp_path / "b.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(CalibrationError, match="expected arrays of numbers"):
        read_samples(str(tmp_path / "b.npy"), 5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CalibrationError, match="expected image files"):
        read_samples(str(tmp_path / "empty"), 5)
    with pytest.raises(CalibrationError, match="dataset:NAME"):
        read_samples(str(tmp_path / "none"), 5)
