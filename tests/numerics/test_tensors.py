import subprocess
import sys

import torch as real

from eutectic.numerics.tensors import load, one_thread, torch


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    begin = "import sys\nfrom eutectic.numerics.tensors import load, one_thread, torch\n"
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=True).stdout


def test_torch_is_loaded_when_it_is_used() -> None:
    """Not by the import, and by the first name."""
    shown = run("print('torch' in sys.modules)\nprint(torch.float32)\nprint('torch' in sys.modules)")
    assert shown.split() == ["False", "torch.float32", "True"]
    assert run("load()\nprint('torch' in sys.modules)").split() == ["True"]


def test_its_names_are_torchs() -> None:
    """The stand-in gives what torch gives, every time."""
    load()
    assert torch.arange is real.arange
    assert torch.arange is real.arange


def test_one_thread_meanwhile() -> None:
    """The number of threads is put back, also after an error; a process without torch stays without."""
    before = real.get_num_threads()
    try:
        with one_thread():
            assert real.get_num_threads() == 1
            raise KeyError
    except KeyError:
        assert real.get_num_threads() == before
    assert run("with one_thread(): print('torch' in sys.modules)").split() == ["False"]
