"""Adapters as PEFT writes them (a folder of LoRA's or OFT's), or kohya's trainers (a file): as differences, or folded.

    open_adapter(folder)      the differences, without a base: plain factors only
    against(base, folder)     the differences from this base: names and orientation checked; DoRA, OFT, full tensors too
    fold(base, folder)        the whole model, base plus adapter

Tensors that an adapter stores in full (modules_to_save, trained biases, resized or copied embeddings) are weights, not
differences: `fold` puts them in the base's place, `against` subtracts the base, `open_adapter` refuses.

Departs: PEFT rounds the update to the adapter's type (bfloat16, say) and adds it in the base's type; here factors are
widened to float32, multiplied there, and added to the widened base without rounding in between. A module is square or
not, PEFT decides by its class whether its weight is stored (in, out); here the base's shapes do, see `edits`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eutectic.adapters.adapter import Adapter
from eutectic.adapters.config import LoraConfig, load_config, read_config
from eutectic.adapters.edits import Edit, edits_against, edits_alone, turns_against
from eutectic.adapters.kohya import is_kohya, read_kohya
from eutectic.adapters.names import Names, read_names
from eutectic.adapters.oft import OftConfig, TurnNames, oft_config, read_turn_names
from eutectic.adapters.peft_folder import WEIGHTS
from eutectic.adapters.sources import DeltaSource, FoldedSource
from eutectic.checkpoint.safetensors import SafetensorsFile
from eutectic.checkpoint.source import Checkpoint, Source
from eutectic.checkpoint.spec import TensorSpec
from eutectic.errors import CheckpointError, MismatchError


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter: it has an adapter_config.json."""
    return (folder / "adapter_config.json").is_file()


def open_adapter(folder: Path) -> Checkpoint:
    """Opens an adapter folder as differences, named as in the base it was trained on.

    Raises:
        CheckpointError: when the adapter is broken, of a kind that cannot be computed exactly, or needs its base.
    """
    config, file, names = _open(folder, None)
    try:
        if isinstance(config, OftConfig) or isinstance(names, TurnNames):
            raise CheckpointError(
                f"{folder}: is an OFT adapter, which rotates the base's weights, so its differences depend on them; "
                "give the base too"
            )
        edits = edits_alone(names, config, file.header, file.name)
    except BaseException:
        file.close()
        raise
    source = DeltaSource(Adapter(file, config, edits, None), str(folder))
    return Checkpoint(str(folder), source, folder, config.raw, deltas=True)


def against(base: Checkpoint, folder: Path) -> Checkpoint:
    """Opens an adapter folder as differences from this base, named as in it. The base stays the caller's to close.

    Raises:
        CheckpointError: when the adapter is broken or of a kind that cannot be computed exactly.
        MismatchError: when it does not fit the base, or has tensors of its own that no base has.
    """
    adapter = _fitted(base, folder)
    added = [name for name in adapter.edits if name not in base.source.header]
    if added:
        adapter.file.close()
        raise MismatchError(
            f"{folder}: stores '{added[0]}' in full, and the base {base.reference} has no such tensor to differ from; "
            f"merge it as a whole model ({base.reference}+{folder}), or take a base with that head"
        )
    return Checkpoint(
        str(folder), DeltaSource(adapter, str(folder), base.source), folder, adapter.config.raw, deltas=True
    )


def fold(base: Checkpoint, folder: Path) -> Checkpoint:
    """Opens `base+adapter` as a whole model: config and other files are the base's, which is closed with it.

    Raises:
        CheckpointError: when the adapter is broken or of a kind that cannot be computed exactly.
        MismatchError: when it does not fit the base.
    """
    adapter = _fitted(base, folder)
    reference = f"{base.reference}+{folder}"
    source = FoldedSource(adapter, reference, base.source)
    return Checkpoint(reference, source, base.folder, base.config, base.revision)


def turned_against(base: Checkpoint, made: Source, raw: Mapping[str, Any], name: str) -> Checkpoint:
    """Opens rotations that are made as they are read, by the names and with the configuration of an OFT adapter.

    `made` is closed with it; the base stays the caller's to close.

    Raises:
        CheckpointError: when the configuration is malformed.
        MismatchError: when they do not fit the base.
    """
    config = oft_config(raw, name)
    names = read_turn_names(made.header, name)
    edits = turns_against(names, config, made.header, base.source.header, name, base.reference)
    source = DeltaSource(Adapter(made, config, edits, base.source), name, base.source)
    return Checkpoint(name, source, config=raw, deltas=True)


def onto(header: Mapping[str, TensorSpec], folder: Path, reference: str, base: Source | None = None) -> Adapter:
    """Opens an adapter folder, or kohya's file, as edits of a model's tensors, of which `header` says all there is.

    Its file is the caller's to close. Without their source, `base`, what depends on the values cannot be read.

    Raises:
        CheckpointError: when the adapter is broken or of a kind that cannot be computed exactly.
        MismatchError: when it does not fit these tensors.
    """
    config, file, names = _open(folder, header)
    try:
        edits = _edits(config, file, names, header, reference)
    except BaseException:
        file.close()
        raise
    return Adapter(file, config, edits, base)


def _open(
    folder: Path, base: Mapping[str, TensorSpec] | None
) -> tuple[LoraConfig | OftConfig, SafetensorsFile, Names | TurnNames]:
    if folder.is_file():
        return _open_file(folder, base)
    raw, where = load_config(folder)
    oft = raw.get("peft_type") == "OFT"
    config = oft_config(raw, where) if oft else read_config(raw, where)
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        raise CheckpointError(
            f"{folder}: expected {WEIGHTS}, found adapter_model.bin, a pickle; save the adapter as safetensors in PEFT"
        )
    file = SafetensorsFile(folder / WEIGHTS, parked=True)
    try:
        names = read_turn_names(file.header, file.name) if oft else read_names(file.header, file.name)
        if not names.modules and not names.full:
            raise CheckpointError(f"{file.name}: the adapter is empty: it holds no tensor")
    except BaseException:
        file.close()
        raise
    return config, file, names


def _open_file(path: Path, base: Mapping[str, TensorSpec] | None) -> tuple[LoraConfig, SafetensorsFile, Names]:
    """Opens an adapter without a folder: kohya's, which needs the base's names."""
    file = SafetensorsFile(path, parked=True)
    try:
        if not is_kohya(file.header):
            raise CheckpointError(
                f"{path}: expected an adapter_config.json beside it, without which nobody knows the scale of its "
                "factors; give the folder that holds both"
            )
        if base is None:
            raise CheckpointError(
                f"{path}: kohya's names have underscores for dots, and only the base's names tell which; "
                "give the base too"
            )
        names, config = read_kohya(file, base)
    except BaseException:
        file.close()
        raise
    return config, file, names


def _fitted(base: Checkpoint, folder: Path) -> Adapter:
    if base.deltas:
        raise MismatchError(f"{folder}: an adapter is fitted to a model, and {base.reference} is an adapter itself")
    return onto(base.source.header, folder, base.reference, base.source)


def _edits(
    config: LoraConfig | OftConfig,
    file: SafetensorsFile,
    names: Names | TurnNames,
    base: Mapping[str, TensorSpec],
    reference: str,
) -> dict[str, Edit]:
    if isinstance(config, OftConfig):
        assert isinstance(names, TurnNames)
        return turns_against(names, config, file.header, base, file.name, reference)
    assert isinstance(names, Names)
    return edits_against(names, config, file.header, base, file.name, reference)
