"""Models of the Hugging Face hub, through its own cache; the one place that imports huggingface_hub."""

from pathlib import Path

import huggingface_hub

from eutectic.errors import CheckpointError

#: What a merge needs of a model; a cached copy that has these is complete.
_NEEDED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.spm")
#: What its card is written from.
_WELCOME = ("README.md", "LICENSE*")
#: Weights of other formats and copies, which can double the download.
_UNWANTED = ("*/*.safetensors", "*/*.bin", "consolidated*.safetensors", "onnx/*", "openvino/*", "coreml/*", "gguf/*")
_PICKLES = ("pytorch_model*.bin", "adapter_model.bin")


def fetch(repository: str, revision: str | None, *, pickles: bool = False, offline: bool = False) -> tuple[Path, str]:
    """Returns the folder of a hub model in the local cache, and the commit it is; downloads it if it is not there.

    A cached copy is used as it is, without asking the hub whether its branch has moved on.

    Raises:
        CheckpointError: when it is neither cached nor to be had.
    """
    named = repository if revision is None else f"{repository}@{revision}"
    needed = [*_NEEDED, *(_PICKLES if pickles else ())]
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                local_files_only=True,
                allow_patterns=needed,
                ignore_patterns=list(_UNWANTED),
            )
        )
        if _has_weights(folder, pickles):
            return folder, folder.name
        reason = "the cached copy has no weights"
    except FileNotFoundError as error:
        reason = "the cached copy is incomplete" if hasattr(error, "snapshot_path") else "it is not in the cache"
    except ValueError as error:  # a name or revision that the hub could not have
        raise CheckpointError(f"{named}: is not a hub model: {error}") from error
    if offline:
        raise CheckpointError(f"{named}: {reason}, and downloads are off; run once online, or name a local folder")
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repository,
                revision=revision,
                allow_patterns=[*needed, *_WELCOME],
                ignore_patterns=list(_UNWANTED),
            )
        )
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        lines = str(error).strip().splitlines()
        raise CheckpointError(
            f"{named}: there is no local folder of this name, {reason}, and the hub did not give it: "
            f"{lines[0] if lines else type(error).__name__:.300}"
        ) from error
    return folder, folder.name


def _has_weights(folder: Path, pickles: bool) -> bool:
    # A cache filled by a tokenizer alone is a snapshot too. Missing shards of an index are found on opening.
    patterns = ["*.safetensors", *(_PICKLES if pickles else ())]
    return any(path.exists() for pattern in patterns for path in folder.glob(pattern))
