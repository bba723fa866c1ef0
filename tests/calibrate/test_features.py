"""What a head stands on, by hand and for the kinds of models."""

import pytest
import torch
import transformers

from eutectic.calibrate.batches import Batch
from eutectic.calibrate.features import feature_of, mask_for, named, pooled
from eutectic.errors import CalibrationError
from tests.make.transformer import config

HIDDEN = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [9.0, 9.0]]])
MASK = (torch.tensor([[True, True, False]]),)


def texts() -> Batch:
    """Two texts of three and two tokens."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    return Batch({"input_ids": torch.tensor([[2, 3, 4], [5, 6, 0]]), "attention_mask": mask}, (mask.bool(),), None, 2)


def test_pooled_by_hand() -> None:
    """The mean of what counts is (3 + 0) / 2 twice; the last that counts is the second."""
    assert pooled(HIDDEN, MASK, "mean").tolist() == [[1.5, 1.5]]
    assert pooled(HIDDEN, MASK, "first").tolist() == [[3.0, 0.0]]
    assert pooled(HIDDEN, MASK, "last").tolist() == [[0.0, 3.0]]
    assert pooled(HIDDEN, (), "last").tolist() == [[9.0, 9.0]]
    assert pooled(torch.ones(2, 5), (), "mean").shape == (2, 5)
    assert pooled(torch.arange(8.0).reshape(1, 2, 2, 2), (), "mean").tolist() == [[1.5, 5.5]]


def test_of_two_masks_the_one_of_its_shape_counts() -> None:
    """A decoder's states are longer than what its encoder was given."""
    longer = torch.tensor([[True, True, True, False, False]])
    assert mask_for(torch.zeros(1, 5, 2), (*MASK, longer)).equal(longer)
    assert mask_for(HIDDEN, (*MASK, longer)).equal(MASK[0])
    assert mask_for(torch.zeros(1, 2, 2), MASK).all()


def test_an_encoder_and_its_pooler() -> None:
    """Both features, and what a model without a pooler is told."""
    torch.manual_seed(0)
    model = transformers.BertModel(config("bert")).eval()
    with torch.no_grad():
        out = model(**texts().inputs)
        assert feature_of(model, texts(), "pooler").equal(out.pooler_output)
        by_hand = out.last_hidden_state[1, :2].mean(0)
        assert torch.allclose(feature_of(model, texts(), "mean")[1], by_hand, atol=1e-6)
    with pytest.raises(CalibrationError, match="expected a model whose output has pooler_output, found"):
        named(object(), "pooler_output")


def test_clip_gives_what_it_compares() -> None:
    """Texts alone and images alone, projected; the vision tower by itself has the same."""
    torch.manual_seed(0)
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 8, "eos_token_id": 4, "bos_token_id": 1}
    image = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    image |= {"image_size": 8, "patch_size": 4}
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=12))
    pixels = Batch({"pixel_values": torch.randn(2, 3, 8, 8)}, (), None, 2)
    with torch.no_grad():
        model = model.eval()
        assert feature_of(model, texts(), "mean").shape == (2, 12)
        projected = feature_of(model, pixels, "mean")
        vision = transformers.CLIPVisionModelWithProjection(model.config.vision_config)
        vision.load_state_dict(
            {k: v for k, v in model.state_dict().items() if k.startswith("vision_model.")}
            | {"visual_projection.weight": torch.zeros(vision.visual_projection.weight.shape)}
        )
        vision.visual_projection = model.visual_projection
        assert torch.allclose(feature_of(vision.eval(), pixels, "mean"), projected, atol=1e-6)
