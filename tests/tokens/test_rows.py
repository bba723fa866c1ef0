"""Embedding rows in the order of another vocabulary, read in any pieces."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.spec import DTYPES, TensorSpec
from eutectic.tokens.rows import FILLED, MEAN, PADDING, PREDICTED, Given, Rows, TokenRows, shown_type
from tests.make.checkpoints import read, write_file

WIDTH = 3
OURS = torch.arange(12, dtype=torch.float32).reshape(4, WIDTH)
THEIRS, OTHERS = 100 + OURS[:3], 1000 + OURS[:2]


class Twos:
    """A prediction: two rows."""

    def rows(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Returns them."""
        return np.full((2, WIDTH), [[2.0], [4.0]], np.float32)

    def digest(self) -> str:
        """Returns a name."""
        return "twos"


def source(path: Path, value: torch.Tensor, **more: torch.Tensor) -> SafetensorsFile:
    """Writes a file with one embedding and opens it."""
    return SafetensorsFile(write_file(path, {"e": value, **more}))


def shown(tmp_path: Path, own: list[int], filled: list[list[int]], dtype: str = "F32") -> TokenRows:
    """Returns a view of OURS with rows of THEIRS and OTHERS where it has none."""
    files = [source(tmp_path / f"{n}.safetensors", each) for n, each in enumerate((THEIRS, OTHERS))]
    spec = TensorSpec("e", (len(own), WIDTH), DTYPES[dtype])
    given_rows = tuple(Given(file, "e") for file in files)
    rows = Rows(spec, np.array(own, np.int32), given_rows, np.array(filled, np.int32), Twos())
    return TokenRows(source(tmp_path / "own.safetensors", OURS, other=torch.ones(2)), {"e": rows})


def values(view: TokenRows, start: int = 0, stop: int | None = None) -> list[float]:
    """Returns elements as float32."""
    found: list[float] = read(view, "e", start, stop).view(np.float32).tolist()
    return found


OWN = [2, 3, FILLED, FILLED, FILLED, 0, PADDING, PREDICTED - 1, PREDICTED, MEAN]
FILLS = [[-1, -1], [-1, -1], [1, -1], [0, 1], [-1, -1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
#: Rows 2 and 3 of its own; row 1 of theirs; the mean of theirs 0 and others' 1; zeros; row 0; ...; predictions.
KNOWN = [[6, 7, 8], [9, 10, 11], [103, 104, 105], [551.5, 552.5, 553.5], [0, 0, 0], [0, 1, 2]]
#: Its four rows' mean: (0 + 3 + 6 + 9) / 4, and so on.
STORED = [4.5, 5.5, 6.5]
#: The mean of all others that are shown: (6 + 9 + 103 + 551.5 + 0 + 0 + 4 + 2 + 4.5) / 9, in float32.
AVERAGE = np.float32([sum(column) / 9 for column in zip(*KNOWN, [4] * 3, [2] * 3, STORED, strict=True)]).tolist()
EXPECTED = [value for row in [*KNOWN, AVERAGE, [4] * 3, [2] * 3, STORED] for value in row]


def test_rows_of_every_kind(tmp_path: Path) -> None:
    """Own, copied, averaged, zero, padding, predicted, the mean of what is stored."""
    view = shown(tmp_path, OWN, FILLS)
    assert values(view) == EXPECTED
    assert view.header["e"].shape == (10, WIDTH)
    assert read(view, "other").view(np.float32).tolist() == [1, 1]
    assert view.name.endswith("own.safetensors (by token)")


@given(start=st.integers(0, 29), count=st.integers(1, 30))
def test_any_piece(tmp_path_factory: pytest.TempPathFactory, start: int, count: int) -> None:
    """A range is that range of the whole, inside of rows too."""
    view = shown(tmp_path_factory.mktemp("rows"), OWN, FILLS)
    stop = min(30, start + count)
    assert values(view, start, stop) == EXPECTED[start:stop]


def test_a_row_of_tokens(tmp_path: Path) -> None:
    """A bias of shape (1, tokens) has tokens along its last axis."""
    file = source(tmp_path / "b.safetensors", torch.tensor([[1.0, 2.0, 3.0]]))
    spec = TensorSpec("e", (1, 4), DTYPES["F32"])
    rows = Rows(spec, np.array([2, FILLED, 0, 1], np.int32), (), np.empty((4, 0), np.int32))
    assert values(TokenRows(file, {"e": rows})) == [3.0, 0.0, 1.0, 2.0]


def test_other_types_are_rounded_once(tmp_path: Path) -> None:
    """Means in float32 of rows that are stored in bfloat16; and copies into a wider type are exact."""
    half = source(tmp_path / "h.safetensors", torch.tensor([[1.0], [1.0078125]], dtype=torch.bfloat16))
    spec = TensorSpec("e", (2, 1), DTYPES["F32"])
    filled = np.array([[0, 1], [1, -1]], np.int32)
    rows = Rows(spec, np.array([FILLED, FILLED], np.int32), (Given(half, "e"), Given(half, "e")), filled)
    assert values(TokenRows(half, {"e": rows})) == [1.00390625, 1.0078125]


def test_types() -> None:
    """The type that all have; float32 where they differ or rows are computed; float64 where one has it."""
    half, brain, single, double = (DTYPES[name] for name in ("F16", "BF16", "F32", "F64"))
    assert shown_type([brain, brain], False) is brain
    assert shown_type([brain, brain], True) is single
    assert shown_type([brain, half], False) is single
    assert shown_type([brain, double], False) is double


def test_costs_count_rows(tmp_path: Path) -> None:
    """Own rows count twice where padding is their mean (3 of 12 bytes), all four stored for theirs; fills once (3)."""
    view = shown(tmp_path, OWN, FILLS)
    assert view.read_cost("e") == (2 * 3 + 4) * 12 + 2 * 12 + 1 * 12
    assert view.read_cost("other") == 8
    view.will_need("e", 0, 6)
    view.will_need("other", 0, 2)


def test_fingerprints_tell_tables_apart(tmp_path: Path) -> None:
    """Another order, another fill or other inputs are another source."""
    names = ["a", "b", "c"]
    for name in names:
        (tmp_path / name).mkdir()
    other = [*OWN[1:], OWN[0]]
    filled: list[list[int]] = [[0, 0], *FILLS[1:]]
    views = [shown(tmp_path / "a", OWN, FILLS), shown(tmp_path / "b", other, FILLS), shown(tmp_path / "c", OWN, filled)]
    assert len({view.fingerprint() for view in views}) == 3


def test_closing(tmp_path: Path) -> None:
    """It closes its source, and what belongs to nobody else; not what fills its rows."""
    donor = source(tmp_path / "donor.safetensors", OURS)
    file = source(tmp_path / "own.safetensors", OURS)
    tables: Mapping[str, Rows] = {}
    view = TokenRows(file, tables, [donor])
    view.check_unchanged()
    view.close()
    for each in (file, donor):
        with pytest.raises(Exception, match=r".*"):
            read(each, "e")
