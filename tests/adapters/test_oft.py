"""OFT adapters: rotations by hand, as PEFT merges them, over any ranges, and what is refused."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import OFTConfig

from eutectic.adapters.lora import against, fold, open_adapter
from eutectic.adapters.oft import read_turn_names, rotations, size_of
from eutectic.errors import CheckpointError, MismatchError
from tests.adapters.test_lora import llama
from tests.make.adapters import read, train, write_adapter, write_base

PLAIN = {"peft_type": "OFT", "r": 0, "lora_alpha": None, "oft_block_size": 2, "use_cayley_neumann": False}
SERIES = PLAIN | {"use_cayley_neumann": True, "peft_version": "0.21.2"}
KEY = "base_model.model.x.oft_R.weight"

CASES: dict[str, dict[str, Any]] = {
    "series": {},
    "exact": {"use_cayley_neumann": False},
    "shared": {"block_share": True},
    "two terms": {"num_cayley_neumann_terms": 2},
    "three terms": {"num_cayley_neumann_terms": 3},
    "six terms": {"num_cayley_neumann_terms": 6},
    "constrained": {"coft": True, "eps": 0.3},
    "constrained, shared, exact": {"coft": True, "eps": 0.3, "block_share": True, "use_cayley_neumann": False},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "modules to save": {"modules_to_save": ["lm_head", "norm"]},
}


@pytest.mark.parametrize("case", CASES)
def test_folded_as_peft_merges(case: str, tmp_path: Path) -> None:
    """Every tensor of `base+adapter` is the one PEFT merges, to float32 rounding; differences are less the base's."""
    options = {"target_modules": ["q_proj", "down_proj"], "oft_block_size": 4} | CASES[case]
    base, folder, merged = train(llama(), OFTConfig(**options), tmp_path)
    folded, deltas = fold(base, folder), against(base, folder)
    assert list(folded.source.header) == list(base.source.header)
    changed = 0
    for name, value in merged.items():
        ours, before = read(folded.source, name), read(base.source, name)
        np.testing.assert_allclose(ours, value.numpy(), rtol=2e-5, atol=2e-6, err_msg=name)
        if name in deltas.source.header:
            np.testing.assert_allclose(read(deltas.source, name), ours - before, rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert np.array_equal(ours, before)
        changed += not np.array_equal(ours, before)
    assert changed >= 3


def test_by_hand(tmp_path: Path) -> None:
    """A block of two channels whose generator is 1, and one that stays.

    Q = (0 1; -1 0), of which (I - Q)(I + Q)^-1 = (1 -1; 1 1) (1 -1; 1 1) / 2 = (0 -1; 1 0), a quarter of a turn. A row
    (1 2) of the map becomes (1 2) R^T = (-2, 1), and the other two channels stay. The series of two terms has
    R = I + 2 Q = (1 2; -2 1), and (1 2) R^T = (5, 0).
    """
    base = write_base(tmp_path / "base", {"x.weight": np.array([[1, 2, 3, 4]], np.float32)})
    stored = {KEY: np.array([[1], [0]], np.float32)}
    folded = fold(base, write_adapter(tmp_path / "exact", stored, **PLAIN))
    assert read(folded.source, "x.weight").tolist() == [[-2, 1, 3, 4]]
    series = write_adapter(tmp_path / "series", stored, **SERIES, num_cayley_neumann_terms=2)
    assert read(fold(base, series).source, "x.weight").tolist() == [[5, 0, 3, 4]]
    table = write_base(tmp_path / "table", {"x.weight": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)})
    embedding = {KEY.replace("oft_R", "oft_embedding_R"): np.array([[1], [0]], np.float32)}
    turned = fold(table, write_adapter(tmp_path / "embedding", embedding, **PLAIN))
    assert read(turned.source, "x.weight").tolist() == [[2, -1, 3, 4], [6, -5, 7, 8]]  # (1 2) R


def test_what_takes_the_bases_place_is_turned(tmp_path: Path) -> None:
    """An embedding that is stored in full, (10 20), is turned by a quarter instead of the base's (1 2)."""
    base = write_base(tmp_path / "base", {"x.weight": np.array([[1, 2]], np.float32)})
    stored = {"base_model.model.x.base_layer.weight": np.array([[10, 20]], np.float32)}
    stored[KEY.replace("oft_R", "oft_embedding_R")] = np.array([[1]], np.float32)
    folder = write_adapter(tmp_path / "adapter", stored, **PLAIN)
    assert read(fold(base, folder).source, "x.weight").tolist() == [[20, -10]]
    assert read(against(base, folder).source, "x.weight").tolist() == [[19, -12]]


def test_constrained_by_hand(tmp_path: Path) -> None:
    """Two blocks and eps sqrt(2): each generator is cut to the length 1, that is to entries of 1 / sqrt(2)."""
    base = write_base(tmp_path / "base", {"x.weight": np.array([[1, 0, 1, 0]], np.float32)})
    stored = {KEY: np.array([[9], [0.5]], np.float32)}
    made = {**SERIES, "num_cayley_neumann_terms": 2, "coft": True, "eps": math.sqrt(2)}
    folded = fold(base, write_adapter(tmp_path / "adapter", stored, **made))
    # (1 0) R^T = (1, -2 q), for q of 1 / sqrt(2), and of 0.5, whose length 0.707 is within 1
    np.testing.assert_allclose(read(folded.source, "x.weight"), [[1, -math.sqrt(2), 1, -1]], rtol=1e-6)


def test_rotations_are_orthogonal() -> None:
    """Exact ones keep lengths. The series up to Q^k, the last one halved, is (I - Q^k) R: orthogonal but for Q^k."""
    generator = np.random.default_rng(0).standard_normal((3, 6, 6)) * 0.05
    generator -= generator.transpose(0, 2, 1)
    exact, one = rotations(generator, None), np.eye(6)
    assert float(np.abs(exact @ exact.transpose(0, 2, 1) - one).max()) < 1e-14
    assert not np.allclose(exact, one, atol=0.1)
    for terms, power in ((3, 3), (4, 3), (5, 4), (8, 7)):
        # PEFT's exact rotation is of the other sign: that of -Q
        expected = (one - np.linalg.matrix_power(generator, power)) @ rotations(-generator, None)
        np.testing.assert_allclose(rotations(generator, terms), expected, atol=1e-14)
    assert np.array_equal(rotations(generator, 2), one + 2 * generator)
    assert np.array_equal(rotations(generator, 1), np.broadcast_to(one, (3, 6, 6)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_range_has_the_same_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    """Elements do not depend on which range they are read in; float64 bases stay float64."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 12, generator=draw, dtype=torch.float64).to(dtype)
    stored = {KEY: 0.3 * torch.randn(3, 6, generator=draw)}
    base = write_base(tmp_path / "base", {"x.weight": weight})
    source = fold(base, write_adapter(tmp_path / "adapter", stored, **PLAIN)).source
    whole = read(source, "x.weight").reshape(-1)
    assert whole.dtype == (np.float64 if dtype is torch.float64 else np.float32)
    for start, stop in ((0, 84), (1, 2), (11, 13), (5, 71), (83, 84), (12, 24)):
        part = np.empty((stop - start) * whole.itemsize, np.uint8)
        source.read_into("x.weight", start, part)
        assert np.array_equal(part.view(whole.dtype), whole[start:stop])


def test_rotations_have_the_same_bits_with_any_threads() -> None:
    """Of blocks so large that a linear algebra library would split the work, exact ones and the series'."""
    code = (
        "import hashlib, numpy as np; from eutectic.adapters.oft import rotations;"
        "q = np.random.default_rng(0).standard_normal((2, 200, 200)) * 0.05; q -= q.transpose(0, 2, 1);"
        "print(hashlib.sha256(rotations(q, None).tobytes() + rotations(q, 5).tobytes()).hexdigest())"
    )
    threads = ({f"{library}_NUM_THREADS": str(n) for library in ("OMP", "MKL", "OPENBLAS")} for n in (1, 2))
    said = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **each}, capture_output=True, check=True).stdout
        for each in threads
    }
    assert len(said) == 1


def test_sizes() -> None:
    """1, 3, 6 and 496 numbers are blocks of 2, 3, 4 and 32 channels; 2 and 0 are none."""
    assert [size_of(n) for n in (1, 3, 6, 496, 2, 0)] == [2, 3, 4, 32, None, None]


def test_it_needs_its_base(tmp_path: Path) -> None:
    """A rotation has no difference by itself."""
    folder = write_adapter(tmp_path, {KEY: np.zeros((2, 1), np.float32)}, **PLAIN)
    with pytest.raises(CheckpointError, match="give the base too"):
        open_adapter(folder)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({**PLAIN, "oft_block_size": None}, "oft_block_size"),
    ({**SERIES, "peft_version": "0.17.1"}, "before PEFT 0.18"),
    ({**SERIES, "peft_version": None}, "before PEFT 0.18"),
    ({**SERIES, "num_cayley_neumann_terms": 0}, "num_cayley_neumann_terms"),
    ({**SERIES, "num_cayley_neumann_terms": 10**9}, "num_cayley_neumann_terms"),
    ({**PLAIN, "coft": True, "eps": -1}, "eps"),
    ({**PLAIN, "coft": True, "eps": "much"}, "eps"),
    ({**PLAIN, "bias": "all"}, "trained biases"),
    ({**PLAIN, "block_share": "yes"}, "block_share"),
    ({**PLAIN, "use_oft_x": True}, "not known"),
]


@pytest.mark.parametrize(("settings", "said"), CONFIGS)
def test_configurations_that_are_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Older formats and what is not known are named."""
    base = write_base(tmp_path / "base", {"x.weight": np.ones((2, 4), np.float32)})
    folder = write_adapter(tmp_path / "adapter", {KEY: np.zeros((2, 1), np.float32)}, **settings)
    with pytest.raises(CheckpointError, match=said):
        fold(base, folder)


FILES: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
    ({KEY: np.zeros((2, 2), np.float32)}, {}, CheckpointError, "expected generators"),
    ({KEY: np.zeros((2, 1, 1), np.float32)}, {}, CheckpointError, "expected generators"),
    ({KEY: np.zeros((2, 1), np.int32)}, {}, CheckpointError, "expected generators"),
    ({KEY: np.zeros((3, 1), np.float32)}, {}, MismatchError, "expected 2 blocks"),
    ({KEY: np.zeros((1, 1), np.float32)}, {}, MismatchError, "expected 2 blocks"),
    ({KEY: np.zeros((2, 1), np.float32)}, {"block_share": True}, MismatchError, "one block that all share"),
    ({KEY: np.zeros((1, 3), np.float32)}, {}, MismatchError, r"1\.33333 blocks"),
    ({KEY.replace(".x.", ".y."): np.zeros((2, 1), np.float32)}, {}, MismatchError, "not in the base"),
    ({KEY.replace(".x.", ".conv."): np.zeros((2, 1), np.float32)}, {}, MismatchError, "a convolution"),
    ({KEY.replace(".x.", ".h.1.wide."): np.zeros((2, 1), np.float32)}, {}, MismatchError, "stored as"),
    ({KEY: np.array([[np.nan], [0]], np.float32)}, {}, CheckpointError, "nan"),
    ({KEY.replace("oft_R.weight", "oft_r"): np.zeros((2, 1), np.float32)}, {}, CheckpointError, r"before 0\.16"),
    ({"base_model.model.x.lora_A.weight": np.zeros((2, 1), np.float32)}, {}, CheckpointError, "OFT stores"),
    ({}, {}, CheckpointError, "empty"),
]


@pytest.mark.parametrize(("tensors", "changes", "kind", "said"), FILES)
def test_files_that_are_refused(
    tensors: dict[str, Any], changes: dict[str, Any], kind: type[Exception], said: str, tmp_path: Path
) -> None:
    """What does not fit is said before anything is computed, broken numbers when they are read."""
    weights = {
        "x.weight": np.ones((2, 4), np.float32),
        "conv.weight": np.ones((2, 4, 1, 1), np.float32),
        "h.1.wide.weight": np.ones((4, 6), np.float32),
        "h.1.wide.bias": np.ones(6, np.float32),
    }
    base = write_base(tmp_path / "base", weights)
    folder = write_adapter(tmp_path / "adapter", tensors, **PLAIN | changes)
    with pytest.raises(kind, match=said):
        read(fold(base, folder).source, "x.weight")


def test_two_names_for_one_module() -> None:
    """A file of two adapters is ambiguous."""
    keys = [KEY, KEY.replace("oft_R", "oft_R.default")]
    with pytest.raises(CheckpointError, match="the same thing"):
        read_turn_names(keys, "file")
    with pytest.raises(CheckpointError, match="mixes two ways"):
        read_turn_names([KEY.replace("oft_R", "oft_R.a"), KEY.replace(".x.oft_R", ".y.oft_R.b")], "file")
    names = read_turn_names(["x.oft_embedding_R.weight", "head.modules_to_save.weight"], "file")
    assert names.modules == {"x": ("x.oft_embedding_R.weight", True)}
    assert names.full == {"head.weight": "head.modules_to_save.weight"}
