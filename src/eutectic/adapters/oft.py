"""Orthogonal fine-tuning (OFT) as PEFT stores it: rotations of what linear maps are given, block by block.

Source: Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, NeurIPS 2023, arXiv:2306.07280; the
series of Qiu et al., Orthogonal Finetuning Made Scalable, 2025, arXiv:2506.19847; PEFT from version 0.18 on.

Channels fall into blocks of b. Of each the file holds the strict upper triangle U of a generator Q = U - U^T, row by
row, b (b - 1) / 2 numbers; blocks may share one. The rotation of a block is

    exact     R = (I - Q) (I + Q)^-1
    series    R = I + 2 Q + 2 Q^2 + ... + Q^(terms - 1), orthogonal but for higher powers

and with all blocks on the diagonal of R, a linear map W (d_out, d_in) becomes W R^T, an embedding E (rows, width) E R.
Where training was constrained (COFT), each Q is first cut to the length `eps` over the root of their number.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eutectic.adapters.config import check_keys, flag_of, names_of
from eutectic.adapters.names import PREFIX, Schemes, full_name
from eutectic.adapters.stored import read_finite
from eutectic.checkpoint.source import Source
from eutectic.errors import CheckpointError
from eutectic.numerics.turned import inverse_beside_one, products

_KEY = re.compile(r"(?P<module>.+)\.oft_(?P<embedding>embedding_)?R(?:\.(?P<adapter>(?!weight$)[^.]+))?\.weight")
_OLD = re.compile(r"\.oft_r\b")
_FOREIGN = re.compile(r"lora_|hada_w|lokr_w|ia3_l|vera_lambda|boft_|oft_|token_adapter|original_module")
#: Keys that say how the adapter was trained or found, or that are read below; anything else that is set is refused.
_KNOWN = frozenset((
    "peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode",
    "r", "oft_block_size", "module_dropout", "target_modules", "exclude_modules", "fan_in_fan_out", "bias",
    "init_weights", "layers_to_transform", "layers_pattern", "modules_to_save", "coft", "eps", "block_share",
    "use_cayley_neumann", "num_cayley_neumann_terms",
))  # fmt: skip
#: The first version of PEFT whose series is the one above.
_SERIES_SINCE = (0, 18)
_MOST_TERMS = 64


@dataclass(frozen=True)
class OftConfig:
    """The part of adapter_config.json that decides what stored generators mean.

    Attributes:
        where: the file, for messages.
        base_name: the base the adapter was trained on, as its author called it; information only.
        terms: of the series; None for the exact rotation.
        radius: what generators are cut to, before it is divided by the root of their number; None leaves them.
        shared: all blocks of a module are one.
        transposed: base weights are stored (in, out), as far as the file knows.
        saved: names of modules stored in full.
        raw: everything the file says.
    """

    where: str
    base_name: str | None
    terms: int | None
    radius: float | None
    shared: bool
    transposed: bool
    saved: tuple[str, ...]
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class Turn:
    """Where a module's generators are stored, and what they make of its weight.

    Attributes:
        key: in the adapter's file.
        size: channels of a block.
        embedding: the rotation is applied as E R, instead of W R^T.
        terms, radius: as in the configuration.
    """

    key: str
    size: int
    embedding: bool
    terms: int | None
    radius: float | None


def oft_config(raw: Mapping[str, Any], where: str) -> OftConfig:
    """Reads the configuration of an OFT adapter, and checks that its rotations can be computed exactly.

    Raises:
        CheckpointError: when something is malformed, of an older format, or not known.
    """
    check_keys(raw, _KNOWN, where)
    if not raw.get("oft_block_size") and not raw.get("r"):
        raise CheckpointError(
            f"{where}: expected oft_block_size, as PEFT writes it since 0.14, found none; merge the adapter into its "
            "base with the PEFT that made it"
        )
    bias = raw.get("bias") or "none"
    if bias != "none":
        raise CheckpointError(
            f"{where}: bias is {bias!r:.200}, and trained biases of OFT are not read; merge it in PEFT"
        )
    base_name, series = raw.get("base_model_name_or_path"), flag_of(raw, "use_cayley_neumann", where)
    return OftConfig(
        where,
        base_name if isinstance(base_name, str) and base_name else None,
        _terms(raw, where) if series else None,
        _radius(raw, where) if flag_of(raw, "coft", where) else None,
        flag_of(raw, "block_share", where),
        flag_of(raw, "fan_in_fan_out", where),
        names_of(raw, "modules_to_save", where),
        raw,
    )


def _terms(raw: Mapping[str, Any], where: str) -> int:
    said = str(raw.get("peft_version") or "")
    found = re.match(r"(\d+)\.(\d+)", said)
    if found is None or (int(found[1]), int(found[2])) < _SERIES_SINCE:
        raise CheckpointError(
            f"{where}: use_cayley_neumann is set and peft_version is {said!r:.100}; the series was another before PEFT "
            "0.18; merge the adapter into its base with the PEFT that made it"
        )
    terms = raw.get("num_cayley_neumann_terms", 5)
    if type(terms) is not int or not 1 <= terms <= _MOST_TERMS:
        raise CheckpointError(
            f"{where}: expected num_cayley_neumann_terms from 1 to {_MOST_TERMS}, found {terms!r:.200}"
        )
    return terms


def _radius(raw: Mapping[str, Any], where: str) -> float:
    eps = raw.get("eps", 6e-5)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < 1e30:
        raise CheckpointError(f"{where}: expected eps to be a number from 0 up, found {eps!r:.200}")
    return float(eps)


@dataclass(frozen=True)
class TurnNames:
    """What an OFT file holds.

    Attributes:
        modules: by module, the key of its generators, and whether it is an embedding.
        full: by the name of a tensor stored in full, its key.
    """

    modules: Mapping[str, tuple[str, bool]]
    full: Mapping[str, str]


def read_turn_names(keys: Iterable[str], where: str) -> TurnNames:
    """Sorts the keys of an OFT file.

    Raises:
        CheckpointError: when a key is not understood, two stand for the same thing, or two namings are mixed.
    """
    modules: dict[str, tuple[str, bool]] = {}
    full: dict[str, str] = {}
    schemes = Schemes()
    for key in keys:
        name = key.removeprefix(PREFIX)
        match = _KEY.fullmatch(name)
        schemes.met(key, match)
        if match:
            if match["module"] in modules:
                other = modules[match["module"]][0]
                raise CheckpointError(f"{where}: tensors '{other}' and '{key}' stand for the same thing")
            modules[match["module"]] = key, match["embedding"] is not None
            continue
        if _OLD.search(name):
            raise CheckpointError(
                f"{where}: tensor '{key}' is of PEFT before 0.16, whose OFT computed other rotations; merge the "
                "adapter into its base with the PEFT that made it"
            )
        if _FOREIGN.search(name):
            raise CheckpointError(f"{where}: tensor '{key}' is not one that PEFT's OFT stores; merge it in PEFT first")
        place = full_name(name)
        if place in full:
            raise CheckpointError(f"{where}: tensors '{full[place]}' and '{key}' stand for the same thing")
        full[place] = key
    schemes.check(where)
    return TurnNames(modules, full)


def size_of(numbers: int) -> int | None:
    """Returns the b of which b (b - 1) / 2 is a number; None if there is none."""
    size = (1 + math.isqrt(1 + 8 * numbers)) // 2
    return size if size > 1 and size * (size - 1) // 2 == numbers else None


def read_generators(file: Source, turn: Turn) -> NDArray[np.float64]:
    """Reads a module's generators: (blocks, b, b), or (1, b, b) where all blocks share one. Float64.

    Raises:
        CheckpointError: when they cannot be read, or hold NaN or infinity.
    """
    stored = read_finite(file, turn.key).astype(np.float64)
    found = np.zeros((len(stored), turn.size, turn.size))
    rows, columns = np.triu_indices(turn.size, 1)
    found[:, rows, columns] = stored
    found -= found.transpose(0, 2, 1)
    if turn.radius is not None:
        most = turn.radius / math.sqrt(len(found))
        lengths = np.sqrt(np.square(found).sum((1, 2), keepdims=True))
        np.multiply(found, most / np.maximum(lengths, most or 1.0), out=found, where=lengths > most)
    return found


def rotations(generators: NDArray[np.float64], terms: int | None) -> NDArray[np.float64]:
    """Returns the rotations of generators, (blocks, b, b); of `terms` of the series, or exact."""
    one: NDArray[np.float64] = np.broadcast_to(np.eye(generators.shape[1]), generators.shape)
    if terms is None:
        return 2 * inverse_beside_one(generators) - one
    made, power = one.copy(), one.copy()
    last = max(terms, 4) - 1 if terms > 2 else terms - 1  # PEFT computes three terms as four
    for at in range(1, last + 1):
        power = products(power, generators)
        made += power if terms > 2 and at == last else 2 * power
    return made


def blocks_of(file: Source, turn: Turn) -> NDArray[np.float64]:
    """Returns what a module's rows are multiplied with, (blocks, b, b): R^T of a map, R of an embedding.

    Raises:
        CheckpointError: as `read_generators`.
    """
    made = rotations(read_generators(file, turn), turn.terms)
    return np.ascontiguousarray(made if turn.embedding else made.transpose(0, 2, 1))
