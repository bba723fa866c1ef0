import json

import pytest

from eutectic.cli.show import Failure, fail, put
from eutectic.errors import OutputError


def test_messages_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is one line on standard error."""
    fail("no room")
    assert capsys.readouterr() == ("", "error: no room\n")


def test_data_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON that any parser reads: names as they are written, and no NaN."""
    put({"größe": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"größe": [1, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        put(float("nan"))


def test_a_failure_carries_its_error() -> None:
    """What was met while running is told apart from what was refused, and says the same."""
    error = OutputError("the disk is full")
    assert Failure(error).error is error
    assert str(Failure(error)) == "the disk is full"
