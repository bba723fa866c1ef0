import pytest

from eutectic.errors import RecipeError
from eutectic.recipe.mergekit.flags import Flags, is_flag, read_flags, takes_value


def test_a_whole_command_line() -> None:
    """Files and our own options are passed over; what means something is a key, the rest one remark."""
    line = "config.yml out --cuda --lora-merge-cache /tmp/x --random-seed 7 --out-shard-size 5B --lazy-unpickle -v"
    assert read_flags(line.split()) == Flags(
        {"seed": 7, "pickles": True},
        {"shard_size": 5 * 10**9},
        ["without effect here: --lora-merge-cache, -v"],
    )


def test_flags_that_are_said() -> None:
    """What is dangerous is ignored with its reason; so is leaving out the tokenizer."""
    found = read_flags(["--trust-remote-code", "--no-copy-tokenizer", "--unsafe-truncate-embeddings"])
    assert found.recipe == {"vocabulary": "truncate"}
    assert [remark.split(" ")[0] for remark in found.remarks] == ["--trust-remote-code", "--no-copy-tokenizer"]


@pytest.mark.parametrize(("size", "expected"), [("1000", 1000), ("2k", 2000), ("3M", 3 * 10**6), ("1B", 10**9)])
def test_sizes(size: str, expected: int) -> None:
    """Bytes, with powers of a thousand."""
    assert read_flags([f"--out-shard-size={size}"]).output == {"shard_size": expected}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-safe-serialization"],
        ["--tensor-intersection"],
        ["--random-seed", "x"],
        ["--random-seed"],
        ["--out-shard-size", "0"],
        ["--out-shard-size", "5G"],
        ["--random-seed", "٣"],
    ],
)
def test_refusals(arguments: list[str]) -> None:
    """Pickled outputs, and values that cannot be read."""
    with pytest.raises(RecipeError, match=arguments[0]):
        read_flags(arguments)


def test_which_are_flags() -> None:
    """Those of ours are none."""
    assert is_flag("--allow-crimes")
    assert is_flag("--write-threads=8")
    assert not is_flag("--memory")
    assert takes_value("--write-threads")
    assert not takes_value("--write-threads=8")
