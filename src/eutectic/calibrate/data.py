"""Calibration data: rows of text, images or ready inputs, from files, folders and datasets. No model is needed here.

data.jsonl, data.json, data.csv, data.parquet   tables with a column of texts or of image files, and perhaps labels
data.txt                                        one text a line
inputs.safetensors, inputs.npz, inputs.npy      inputs as the model takes them, first axis samples
folder/                                         image files; those in folders of their own are labelled by folder
dataset:NAME, dataset:NAME/CONFIG:SPLIT         a dataset saved by `datasets`, or one of a hub
"""

import csv
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eutectic.calibrate.extras import load
from eutectic.checkpoint.cast import Cast
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES
from eutectic.errors import CalibrationError, EutecticError, nearest

IMAGES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"))
DATASET = "dataset:"
Array = NDArray[Any]
#: What samples of ready inputs call their labels.
LABELS = "labels"


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called."""

    text: str = "text"
    image: str = "image"
    label: str | None = None


@dataclass(frozen=True)
class Sample:
    """One thing to show a model: a text, an image, both (CLIP), or ready inputs by the names the model takes.

    Attributes:
        text: what is tokenised.
        image: a file, or an image that Pillow opened already.
        inputs: arrays by name.
        label: its class.
    """

    text: str | None = None
    image: Any = None
    inputs: Mapping[str, Array] | None = None
    label: int | str | None = None


@dataclass(frozen=True)
class Samples:
    """The samples of one model.

    Attributes:
        reference: what the recipe calls the data.
        rows: the samples, in the order they are shown.
        digest: of their content.
    """

    reference: str
    rows: tuple[Sample, ...]
    digest: str


def read_samples(
    reference: str, count: int, *, columns: Columns = Columns(), seed: int | None = None, root: Path | None = None
) -> Samples:
    """Reads up to `count` samples: the first, or with a seed some drawn from all.

    Raises:
        CalibrationError: when there is no such data, it is empty, or it has no such column.
    """
    rows = _rows(reference, columns, root)
    if seed is None:
        chosen = list(islice(rows, count))
    else:
        every = list(rows)
        picked = sorted(random.Random(seed).sample(range(len(every)), min(count, len(every))))
        chosen = [every[at] for at in picked]
    if not chosen:
        raise CalibrationError(f"{reference}: expected samples, found none")
    return Samples(reference, tuple(chosen), _digest(chosen))


def _rows(reference: str, columns: Columns, root: Path | None) -> Iterator[Sample]:
    if reference.startswith(DATASET):
        return _from_table(_dataset(reference.removeprefix(DATASET), root), reference, columns, Path())
    path = (root or Path()) / Path(reference).expanduser()
    if path.is_dir():
        return _images(path)
    if not path.is_file():
        raise CalibrationError(f"{path}: expected a file or folder of samples, found none; a dataset is {DATASET}NAME")
    suffix = next((end for end in reversed(path.suffixes) if end != ".gz"), "")
    if suffix in (".safetensors", ".npz", ".npy"):
        return _arrays(path, suffix)
    readers: dict[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
        ".jsonl": _jsonl,
        ".json": _json,
        ".csv": _csv,
        ".tsv": _csv,
        ".parquet": _parquet,
        ".txt": lambda found: ({columns.text: line} for line in _lines(found)),
    }
    if suffix not in readers:
        known = ", ".join([*readers, ".safetensors", ".npz", ".npy"])
        raise CalibrationError(f"{path}: expected a file ending in one of {known}, or a folder of images")
    return _from_table(readers[suffix](path), str(path), columns, path.parent)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _from_table(rows: Iterator[Mapping[str, Any]], where: str, columns: Columns, folder: Path) -> Iterator[Sample]:
    for number, row in enumerate(rows, start=1):
        text, image = row.get(columns.text), row.get(columns.image)
        if text is None and image is None:
            found = ", ".join(map(str, list(row)[:9])) or "none"
            hint = nearest(columns.text, [str(key) for key in row])
            raise CalibrationError(
                f"{where}: row {number}: expected a column {columns.text!r} or {columns.image!r}, found {found}{hint}"
            )
        if text is not None and not isinstance(text, str):
            raise CalibrationError(f"{where}: row {number}: expected text, found {type(text).__name__}")
        label = None
        if columns.label is not None:
            label = row.get(columns.label)
            if label is None or label == "":
                raise CalibrationError(f"{where}: row {number}: expected a label under {columns.label!r}, found none")
            label = int(label) if isinstance(label, str) and label.lstrip("-").isdigit() else label
        if image is not None and not hasattr(image, "convert"):
            image = folder / str(image)
        yield Sample(text, image, label=label)


def _open(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8", newline="")


def _lines(path: Path) -> Iterator[str]:
    try:
        with _open(path) as file:
            yield from (line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"{path}: expected UTF-8 text, found {error}") from error


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{path}: row {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise CalibrationError(f"{path}: row {number}: expected a JSON object, found {type(row).__name__}")
        yield row


def _json(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with _open(path) as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{path}: expected a JSON list of objects, found {error}") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise CalibrationError(f"{path}: expected a JSON list of objects, found another value")
    yield from found


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with _open(path) as file:
            yield from csv.DictReader(file, delimiter="\t" if ".tsv" in path.suffixes else ",")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CalibrationError(f"{path}: expected a table, found {error}") from error


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    table = load("pyarrow.parquet", f"{path}: reading Parquet")
    try:
        for batch in table.ParquetFile(path).iter_batches(256):
            yield from batch.to_pylist()
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: expected a Parquet table, found {error}") from error


def _dataset(name: str, root: Path | None) -> Iterator[Mapping[str, Any]]:
    """Yields the rows of a dataset: a folder that `save_to_disk` wrote, or `NAME[/CONFIG][:SPLIT]` of a hub."""
    datasets = load("datasets", f"{DATASET}{name}: reading it")
    place, _, split = name.partition(":")
    folder = (root or Path()) / place
    if folder.is_dir():
        found = datasets.load_from_disk(str(folder))
        if hasattr(found, "keys"):
            if (split or "train") not in found:
                splits = ", ".join(found)
                raise CalibrationError(
                    f"{DATASET}{name}: expected one of the splits {splits}, found {split or 'train'}"
                )
            found = found[split or "train"]
    else:
        owner, _, rest = place.partition("/")
        title, _, config = rest.partition("/")
        names = [f"{owner}/{title}", config] if config else [place]
        found = datasets.load_dataset(*names, split=split or "train", streaming=True)
    yield from found


# ---- images and arrays ----------------------------------------------------------------------------------------------


def _images(folder: Path) -> Iterator[Sample]:
    """Yields a folder's image files in name order, taken in turn from its folders, which are their labels."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)
    if not files:
        raise CalibrationError(f"{folder}: expected image files ({', '.join(sorted(IMAGES))}), found none")
    classes: dict[str, list[Path]] = {}
    for path in files:
        inside = path.relative_to(folder).parts
        classes.setdefault(inside[0] if len(inside) > 1 else "", []).append(path)
    labels = {name: number for number, name in enumerate(sorted(classes))} if len(classes) > 1 else {}
    for turn in range(max(len(paths) for paths in classes.values())):
        for name, paths in classes.items():
            if turn < len(paths):
                yield Sample(image=paths[turn], label=labels.get(name))


def _arrays(path: Path, suffix: str) -> Iterator[Sample]:
    found = _from_safetensors(path) if suffix == ".safetensors" else _from_numpy(path, suffix)
    labels = found.pop(LABELS, None) if len(found) > 1 else None
    sizes = {name: len(array) if array.ndim else 0 for name, array in found.items()}
    if len(set(sizes.values())) > 1 or (labels is not None and len(labels) not in sizes.values()):
        raise CalibrationError(f"{path}: expected arrays with one row a sample, found {sizes}")
    for row in range(next(iter(sizes.values()), 0)):
        label = None
        if labels is not None and labels.ndim == 1:
            label = int(labels[row])
        inputs = {name: array[row] for name, array in found.items()}
        if labels is not None and labels.ndim > 1:
            inputs[LABELS] = labels[row]
        yield Sample(inputs=inputs, label=label)


def _from_numpy(path: Path, suffix: str) -> dict[str, Array]:
    try:
        found = np.load(path, allow_pickle=False)
        return {"": found} if suffix == ".npy" else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError) as error:
        raise CalibrationError(f"{path}: expected arrays of numbers, found {error}") from error


_NUMPY = {"I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_, "F32": np.float32}


def _from_safetensors(path: Path) -> dict[str, Array]:
    try:
        file = SafetensorsFile(path)
        wide = Cast(file, DTYPES["F32"])
        found: dict[str, Array] = {}
        for name, spec in wide.header.items():
            if spec.dtype.name not in _NUMPY:
                raise CalibrationError(f"{path}: {name}: expected inputs of I64, I32 or floats, found {spec.dtype}")
            out: Array = np.empty(spec.shape, _NUMPY[spec.dtype.name])
            wide.read_into(name, 0, out.reshape(-1).view(np.uint8))
            found[name] = out
        file.close()
    except EutecticError as error:
        raise CalibrationError(str(error)) from error
    return found


def read_arrays(path: Path) -> dict[str, Array]:
    """Returns the arrays of a safetensors or numpy file, floats as float32.

    Raises:
        CalibrationError: when there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise CalibrationError(f"{path}: expected a file of tensors, found none")
    return _from_safetensors(path) if path.suffix == ".safetensors" else _from_numpy(path, path.suffix)


def _digest(rows: Sequence[Sample]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.text!r} {row.label!r}\0".encode())
        if hasattr(row.image, "convert"):
            digest.update(f"{row.image.size} {row.image.mode}\0".encode() + row.image.tobytes())
        elif row.image is not None:
            try:
                digest.update(hashlib.sha256(row.image.read_bytes()).digest())
            except OSError as error:
                raise CalibrationError(f"{row.image}: expected an image file, found {error}") from error
        for name, array in (row.inputs or {}).items():
            digest.update(f"{name} {array.dtype} {array.shape}\0".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
