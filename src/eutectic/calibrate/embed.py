"""Features of samples by a model that is passed block by block: of prompts, and of what adapters are fitted to."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.features import feature_of
from eutectic.calibrate.passes import run_blocks
from eutectic.calibrate.skeleton import Skeleton, Weights, build
from eutectic.checkpoint.source import Checkpoint
from eutectic.errors import CalibrationError
from eutectic.numerics.tensors import Tensor, torch


def embed(
    runs: Checkpoint,
    weights: Weights,
    batches: Sequence[Batch],
    pool: str,
    *,
    tell: Callable[[str], None] = lambda _: None,
    spill: Path | None = None,
) -> Tensor:
    """Returns the features of samples, (samples, width), with one block of the model in memory at a time.

    Args:
        runs: the checkpoint whose config says how the model runs.
        weights: its weights.
        batches: the samples, in order.
        pool: as in `feature_of`.
        tell: hears of each block that is done.
        spill: put waiting activations on disk, in this folder; in memory if None.

    Raises:
        CalibrationError: when the model cannot be built, its tensors do not fit, or features are not finite.
    """
    skeleton = Skeleton(build(runs, headless=True), runs.reference)
    fitted = skeleton.fit(weights)
    check_pooler(skeleton, len(fitted.stored), pool)
    run = partial(feature_of, skeleton.module, pool=pool)
    found = torch.cat(run_blocks(skeleton, fitted, batches, run, tell=tell, spill=spill))
    if not bool(torch.isfinite(found).all()):
        raise CalibrationError(f"{weights.model.reference}: its features are NaN or infinite; its weights are broken")
    return found


def check_pooler(skeleton: Skeleton, stored: int, pool: str) -> None:
    """Checks that a model has its pooler, where that makes the features.

    Raises:
        CalibrationError: when its file lacks it.
    """
    if pool == "pooler" and stored < skeleton.count:
        raise CalibrationError(
            f"{skeleton.reference}: expected the weights of its pooler, found none; choose another pool"
        )
