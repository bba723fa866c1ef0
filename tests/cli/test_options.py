from collections.abc import Callable

import pytest

from tests.cli.conftest import Done


@pytest.mark.parametrize("verb", ["merge", "plan"])
def test_shared_options_read_alike(cli: Callable[..., Done], verb: str) -> None:
    """Verbs that take an option take it by one name and describe it in the same words."""
    helped = " ".join(cli(verb, "--help").out.split())
    for words in ("What the run may hold, such as 256MiB", "Workers. Default", "Do not download.", "Print JSON"):
        assert words in helped
