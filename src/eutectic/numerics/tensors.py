"""torch, loaded when it is first used: it takes a second, and the fused kernels, which serve most merges, do without.

Modules write `from eutectic.numerics.tensors import Tensor, torch` and use both as ever, in annotations and in the
bodies of functions. Whoever knows that torch will be needed calls `load` before it starts threads.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class Tensor:
        """Stands for `torch.Tensor` in annotations."""

    class _Torch:
        """Stands for the module `torch`, which it imports when a name is first asked for."""

        def __getattr__(self, name: str) -> object:
            found = getattr(import_module("torch"), name)
            setattr(self, name, found)
            return found

    torch = _Torch()


def load() -> None:
    """Imports torch now."""
    import_module("torch")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps torch to one thread meanwhile, if it is loaded.

    The workers share the cores, and a sum split over threads could depend on their number.
    """
    if "torch" not in sys.modules:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


__all__ = ["Tensor", "load", "one_thread", "torch"]
