import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import typer

from eutectic.about import VERSION
from eutectic.cli.main import VERBS, main
from tests.cli.conftest import Done

Cli = Callable[..., Done]
START = [sys.executable, "-c", "from eutectic.cli import main; main()"]


def start(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Runs `eutectic` in a process of its own."""
    return subprocess.run([*START, *arguments], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_version(cli: Cli) -> None:
    """The version, and nothing else."""
    assert cli("--version") == Done(0, f"eutectic {VERSION}\n", "")


def test_help_lists_every_verb(cli: Cli) -> None:
    """Without arguments and with --help: each verb with what it does."""
    helped = cli("--help")
    assert helped.code == 0
    for verb, does in VERBS.items():
        assert f"  {verb} " in helped.out
        assert does[:30] in helped.out
    assert cli() == Done(2, "", helped.out)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_say_what_the_list_says(cli: Cli, verb: str) -> None:
    """The list, which loads no verb, says what the verb itself says first; its help names its options."""
    function = getattr(import_module(f"eutectic.cli.{verb}"), verb)
    said = function.info.help if isinstance(function, typer.Typer) else function.__doc__
    assert (said or "").startswith(VERBS[verb])
    helped = cli(verb, "--help")
    assert helped.code == 0
    assert VERBS[verb] in " ".join(helped.out.split())
    assert "--debug" in helped.out


def test_unknown_verbs_and_options_are_refused(cli: Cli) -> None:
    """Exit code 2, the reason on standard error, nothing on standard output."""
    for arguments, reason in ((["mrege"], "No such command 'mrege'"), (["inspect", "--frob", "x"], "--frob")):
        done = cli(*arguments)
        assert (done.code, done.out) == (2, "")
        assert reason in done.err


def test_refusals_have_no_traceback(cli: Cli) -> None:
    """One message on standard error; --debug, before the verb or after it, adds the traceback."""
    plain = cli("inspect", "nowhere")
    assert (plain.code, plain.out) == (2, "")
    assert plain.err.startswith("error: nowhere: ")
    assert "Traceback" not in plain.err
    for arguments in (["--debug", "inspect", "nowhere"], ["inspect", "nowhere", "--debug"]):
        told = cli(*arguments)
        assert told.code == 2
        assert "Traceback" in told.err
        assert told.err.endswith(plain.err)


def test_what_nobody_foresaw(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is exit code 1, one line and a word on reporting it; with --debug, itself."""

    def broken(name: str) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr("eutectic.cli.methods.methods", broken)
    done = cli("methods", "x")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: unexpected ZeroDivisionError: x\n")
    assert "Traceback" not in done.err
    with pytest.raises(ZeroDivisionError):
        main(["methods", "x", "--debug"])


def test_inspecting_loads_no_torch(here: Path) -> None:
    """A header is read without the libraries that compute."""
    code = (
        "import sys; from eutectic.cli import main\n"
        "try: main(['inspect', 'base'])\n"
        "finally: print(*{'torch', 'numba'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "\n")
    assert "21 tensors" in done.stdout


def test_exit_codes_of_processes(here: Path) -> None:
    """0 for a merge; 2 for a broken recipe; 1 for an output that is not what its recipe makes."""
    assert start("merge", "recipe.yaml", "-o", "out").returncode == 0
    (here / "wrong.yaml").write_text("models: [code]\nmethod: teis\n")
    wrong = start("plan", "wrong.yaml")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: wrong.yaml:2: ")
    weights = here / "out" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert start("verify", "out", "--all").returncode == 1


def test_a_reader_that_leaves_is_no_traceback(here: Path) -> None:
    """`eutectic schema | head -1`: the process ends quietly."""
    process = subprocess.Popen([*START, "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_an_interrupt_keeps_the_work(here: Path) -> None:
    """SIGINT while merging: exit code 130, a word on resuming, no output; the same command then finishes."""
    code = (
        "import os, signal, sys\n"
        "from eutectic.cli import bar, main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # who runs the tests may ignore it
        "def interrupt(self, event): os.kill(os.getpid(), signal.SIGINT)\n"
        "bar.Bar.__call__ = interrupt\n"
        "main(['merge', 'recipe.yaml', '-o', 'out'])\n"
    )
    stopped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert stopped.returncode == 130, stopped.stderr
    assert "resumes" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not (here / "out").exists()
    assert start("merge", "recipe.yaml", "-o", "out").returncode == 0
    assert json.loads((here / "out" / "eutectic_receipt.json").read_text())["fates"]


def test_the_program_ends_with_its_code(tmp_path: Path) -> None:
    """The process ends without freeing everything, with the same codes and all that was printed, in files and pipes."""
    command = [sys.executable, "-c", "from eutectic.cli import program; program()"]
    for arguments, code in ((["--version"], 0), (["mrege"], 2), (["inspect", str(tmp_path / "none")], 2)):
        own = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        plain = start(*arguments)
        assert own.returncode == plain.returncode == code
        assert (own.stdout, own.stderr) == (plain.stdout, plain.stderr)
    with (tmp_path / "out").open("w") as file:
        subprocess.run([*command, "methods"], stdout=file, check=True)
    assert "task_arithmetic" in (tmp_path / "out").read_text()


def test_what_others_leave_for_the_end_is_done(tmp_path: Path) -> None:
    """Handlers registered while the program runs come before its end; a traceback is still a failure."""
    ask = (
        "import atexit, sys; from eutectic.cli import program\n"
        "found = sys.modules['eutectic.cli.main']\n"
        "def failing(): atexit.register(lambda: print('tidied')); raise {error}\n"
        "found.main = failing\n"
        "program()"
    )
    for error, code, said in (("SystemExit", 0, ""), ("SystemExit(3)", 3, ""), ("ValueError", 1, "Traceback")):
        done = subprocess.run(
            [sys.executable, "-c", ask.format(error=error)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout) == (code, "tidied\n")
        assert said in done.stderr
