"""Features block by block: those of the whole model, and a pooler that is not there."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import eutectic
from eutectic.calibrate.batches import Processor
from eutectic.calibrate.data import read_samples
from eutectic.calibrate.embed import embed
from eutectic.calibrate.skeleton import Weights
from eutectic.errors import CalibrationError
from tests.make.transformer import config, save, texts


@pytest.mark.parametrize(
    ("kind", "cls"), [("bert", "BertModel"), ("t5", "T5ForConditionalGeneration"), ("llama", "LlamaForCausalLM")]
)
@pytest.mark.parametrize("aside", [False, True], ids=["memory", "disk"])
def test_block_by_block_is_the_whole(tmp_path: Path, kind: str, cls: str, aside: bool) -> None:
    """The mean of the last hidden states over real tokens."""
    model = eutectic.open(save(tmp_path / "model", config(kind), cls, 1))
    samples = read_samples(str(texts(tmp_path / "texts.jsonl", 7)), 7)
    batches = list(Processor(model, None, 32).batches(samples, 3))
    heard: list[str] = []
    found = embed(model, Weights(model), batches, "mean", tell=heard.append, spill=tmp_path if aside else None)
    whole = getattr(transformers, cls).from_pretrained(tmp_path / "model").eval()
    rows = []
    with torch.no_grad():
        for batch in batches:
            mask = batch.inputs["attention_mask"]
            if kind == "t5":  # the text itself behind the start token, and one more
                none = torch.zeros_like(mask[:, :1])
                own = torch.cat([torch.ones_like(none), mask, none], 1)
                ids = torch.cat([none, batch.inputs["input_ids"], none], 1)
                whole.lm_head = torch.nn.Identity()
                hidden = whole(**batch.inputs, decoder_input_ids=ids, decoder_attention_mask=own).logits
                mask = own
            else:
                inputs = {k: v for k, v in batch.inputs.items() if k != "token_type_ids" or kind == "bert"}
                hidden = whole.base_model(**inputs).last_hidden_state
            weights = mask.unsqueeze(-1).float()
            rows.append((hidden * weights).sum(1) / weights.sum(1))
    assert torch.allclose(found, torch.cat(rows), atol=1e-5)
    assert heard


def test_a_pooler_that_is_not_in_the_file_is_missed(tmp_path: Path) -> None:
    """Its weights would be zeros."""
    folder = save(tmp_path / "model", config("bert"), "BertModel", 1)
    file = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if "pooler" not in name}, file)
    model = eutectic.open(folder)
    samples = read_samples(str(texts(tmp_path / "texts.jsonl", 2)), 2)
    batches = list(Processor(model, None, 32).batches(samples, 2))
    with pytest.raises(CalibrationError, match="expected the weights of its pooler, found none"):
        embed(model, Weights(model), batches, "pooler")
