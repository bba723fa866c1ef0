from eutectic.layout.families import configs, families, families_of, family_role, tied_words
from eutectic.layout.roles import Role


def test_tables_are_read() -> None:
    """Every packaged family names model types and says something of them."""
    assert families()
    assert all(family.model_types and (family.roles or family.tied is not None) for family in families())


def test_nested_configs_count() -> None:
    """A vision-language model belongs to its text model's family too; a config without a type to none."""
    nested = {"model_type": "mine", "text_config": {"model_type": "gemma2"}, "other": 3}
    assert [part.get("model_type") for part in configs(nested)] == ["mine", "gemma2"]
    assert tied_words(nested) is True
    assert families_of({}) == ()


def test_the_config_has_the_last_word() -> None:
    """What config.json says outweighs the family; the outer config outweighs the inner."""
    assert tied_words({"model_type": "gpt2", "tie_word_embeddings": False}) is False
    inner = {"text_config": {"tie_word_embeddings": True}}
    assert tied_words(inner) is True
    assert tied_words(inner | {"tie_word_embeddings": False}) is False
    assert tied_words({"model_type": "llama"}) is None


def test_first_pattern_wins() -> None:
    """A family's role is that of the first glob on the whole name."""
    known = families_of({"model_type": "whisper"})
    assert family_role("proj_out.weight", known) is Role.HEAD
    assert family_role("model.proj_out.weight", known) is None
