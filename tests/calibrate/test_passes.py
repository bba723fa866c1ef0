"""Block by block is the whole model; what is shown is what layers are given; padding, order and batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from eutectic.calibrate import spill
from eutectic.calibrate.batches import Batch, Processor
from eutectic.calibrate.data import read_samples
from eutectic.calibrate.observe import Collector
from eutectic.calibrate.passes import forward, masks_of, pass_through
from eutectic.calibrate.skeleton import Skeleton, Weights, build
from eutectic.checkpoint.open import open_checkpoint
from eutectic.errors import CalibrationError
from eutectic.stats.fold import Calibrated
from eutectic.stats.inputs import InputGram, InputMoments
from eutectic.stats.store import Outcome
from tests.make.transformer import config, save, texts

GRAM, MOMENTS = InputGram(), InputMoments()
KINDS = {
    "bert": "BertModel",
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "t5": "T5ForConditionalGeneration",
}


def batches_of(folder: Path, data: Path, size: int = 5, count: int = 12) -> list[Batch]:
    """A model's batches of a file of texts."""
    processor = Processor(open_checkpoint(str(folder)), None, 32)
    return list(processor.batches(read_samples(str(data), count), size))


def run(
    folder: Path,
    batches: Sequence[Batch],
    statistics: Sequence[Calibrated] = (GRAM,),
    *,
    blocks: bool = True,
    headless: bool = True,
    **how: Any,
) -> dict[Calibrated, dict[str, Outcome]]:
    """All results of a folder's model, every parameter asked about."""
    checkpoint = open_checkpoint(str(folder))
    skeleton = Skeleton(build(checkpoint, headless=headless), str(folder), blocks=blocks)
    fitted = skeleton.fit(Weights(checkpoint))
    names = [name for own in skeleton.parameters(fitted).values() for name in own]
    collector = Collector({name: list(statistics) for name in names}, str(folder))
    found: dict[Calibrated, dict[str, Outcome]] = {each: {} for each in statistics}

    def done(part: str | None, from_: Collector) -> None:
        own = [name for name in names if skeleton.part_of(name) == part]
        for statistic in statistics:
            found[statistic] |= from_.take(own, statistic)

    pass_through(skeleton, fitted, batches, collector, done, **how)
    assert all(parameter.is_meta for parameter in skeleton.module.parameters())
    return found


def result(outcomes: Mapping[str, Outcome], name: str) -> torch.Tensor:
    """A result, that of the tensor it follows included."""
    outcome = outcomes[name]
    found = outcome.result if outcome.same_as is None else outcomes[outcome.same_as].result
    assert found is not None
    return found


@pytest.fixture(scope="module", params=list(KINDS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small model of a family, and texts."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = request.param
    return save(folder / "model", config(kind), KINDS[kind], 3), texts(folder / "data.jsonl")


def test_block_by_block_is_the_whole_model(
    model: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every result is the same to the last bit, with activations in memory or put on disk."""
    monkeypatch.setattr(spill, "LEAST", 1)
    folder, data = model
    batches = batches_of(folder, data)
    whole = run(folder, batches, (GRAM, MOMENTS), blocks=False)
    for aside in (None, tmp_path):
        parts = run(folder, batches, (GRAM, MOMENTS), spill=aside)
        for statistic in (GRAM, MOMENTS):
            assert parts[statistic].keys() == whole[statistic].keys()
            for name in whole[statistic]:
                assert torch.equal(result(parts[statistic], name), result(whole[statistic], name)), name
                assert parts[statistic][name].rows == whole[statistic][name].rows


def test_what_is_shown_is_what_layers_are_given(model: tuple[Path, Path]) -> None:
    """Against the model as transformers loads it, its layers' inputs caught by hand and padding cut off."""
    folder, data = model
    batches = batches_of(folder, data)
    found = run(folder, batches)[GRAM]
    kind = transformers.T5ForConditionalGeneration if "t5" in str(folder) else transformers.AutoModel
    loaded = kind.from_pretrained(folder, dtype=torch.float32).eval()
    caught: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name, module in loaded.named_modules():
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D":

            def catch(module: Any, args: tuple[Any, ...], name: str = f"{name}.weight") -> None:
                caught.setdefault(name, []).append(args[0])

            handles.append(module.register_forward_pre_hook(catch))
    with torch.no_grad():
        for batch in batches:
            before = {name: len(rows) for name, rows in caught.items()}
            forward(loaded, batch)
            for mask in masks_of(loaded, batch, include=False):
                for name, rows in caught.items():
                    for at in range(before.get(name, 0), len(rows)):
                        if rows[at].dim() == 3 and rows[at].shape[:2] == mask.shape:
                            rows[at] = rows[at][mask]
    caught.pop("lm_head.weight", None)  # T5's, which is not run
    assert set(found) == set(caught)
    for name, rows in caught.items():
        every = torch.cat([each.reshape(-1, each.shape[-1]) for each in rows]).double()
        assert found[name].rows == len(every), name
        expected = every.T @ every
        assert float((result(found, name).double() - expected).norm()) <= 1e-6 * float(expected.norm()), name


def test_maps_that_are_given_one_tensor_share_a_result(model: tuple[Path, Path]) -> None:
    """Query, key and value of self-attention do; nothing that is given something else does."""
    folder, data = model
    found = run(folder, batches_of(folder, data))[GRAM]
    followers = {name for name, outcome in found.items() if outcome.same_as is not None}
    ends = {name.split(".")[-2] for name in followers}
    assert ends <= {"key", "value", "k_proj", "v_proj", "up_proj", "k", "v"}
    assert ("gpt2" in str(folder)) == (not followers)


@pytest.mark.parametrize("size", [1, 4, 12])
def test_batches_change_nothing(model: tuple[Path, Path], size: int) -> None:
    """However samples are batched, and in whatever order, results agree to a relative 1e-5 of the forward pass."""
    folder, data = model
    rows = read_samples(str(data), 12).rows
    processor = Processor(open_checkpoint(str(folder)), None, 32)
    turned = [processor.batch(rows[::-1][at : at + size], "data") for at in range(0, 12, size)]
    first, second = run(folder, batches_of(folder, data))[GRAM], run(folder, turned)[GRAM]
    for name in first:
        one, other = result(first, name), result(second, name)
        assert float((one - other).norm()) <= 1e-5 * float(one.norm()), name
        assert first[name].rows == second[name].rows


def test_padding_counts_when_asked_to(model: tuple[Path, Path]) -> None:
    """Included, every row of every padded batch counts, as in the published codes."""
    folder, data = model
    batches = batches_of(folder, data)
    found = run(folder, batches, include_padding=True)[GRAM]
    tokens = sum(batch.inputs["input_ids"].numel() for batch in batches)
    cut = run(folder, batches)[GRAM]
    real = sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)
    name = next(each for each in found if "decoder" not in each or "t5" not in str(folder))
    assert (found[name].rows, cut[name].rows) == (tokens, real)


def test_what_is_not_finite_is_named(model: tuple[Path, Path], tmp_path: Path) -> None:
    """NaN in a weight reaches activations; the message names the model and a tensor behind it."""
    folder, data = model
    batches = batches_of(folder, data)
    checkpoint = open_checkpoint(str(folder))
    skeleton = Skeleton(build(checkpoint, headless=True), "broken")
    fitted = skeleton.fit(Weights(checkpoint))

    class Broken(Weights):
        def read(self, name: str) -> torch.Tensor:
            found = super().read(name)
            return found.fill_(torch.nan) if "embed" in name or "wte" in name or "shared" in name else found

    names = [name for own in skeleton.parameters(fitted).values() for name in own]
    collector = Collector({name: [GRAM] for name in names}, "broken")
    broken = type(fitted)(Broken(checkpoint), fitted.stored)

    def done(part: str | None, from_: Collector) -> None:
        from_.take([name for name in names if skeleton.part_of(name) == part], GRAM)

    with pytest.raises(CalibrationError, match=r"broken: what reaches .*weight is NaN or infinite"):
        pass_through(skeleton, broken, batches, collector, done)


def test_an_image_model_is_passed(tmp_path: Path) -> None:
    """Patches of a convolution are unfolded: its Gram is that of the patches as one matrix."""
    folder = save(tmp_path / "vit", config("vit"), "ViTForImageClassification", 5, words=False)
    pixels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = run(folder, [Batch({"pixel_values": pixels}, (), None, 3)], (GRAM, MOMENTS))
    name = next(each for each in found[GRAM] if each.endswith("projection.weight"))
    patches = pixels.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 48).double()
    assert torch.allclose(result(found[GRAM], name).double(), patches.T @ patches, rtol=1e-5, atol=1e-5)
    norm = next(each for each in found[MOMENTS] if each.endswith("layernorm_before.weight"))
    assert torch.allclose(result(found[MOMENTS], norm)[1].sum(), torch.tensor(3.0 * 5 * 16), rtol=1e-3)
