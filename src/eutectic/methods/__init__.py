"""The zoo: one file, one paper. To add a method, write its file, its test, and its line in `METHODS`.

Other packages add methods under the entry point group `eutectic.methods`: each entry names a `Method`.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from eutectic.errors import RecipeError, nearest
from eutectic.methods.breadcrumbs import breadcrumbs
from eutectic.methods.dare import dare
from eutectic.methods.declare import Method
from eutectic.methods.della import della
from eutectic.methods.linear import linear
from eutectic.methods.magmax import magmax
from eutectic.methods.model_stock import model_stock
from eutectic.methods.passthrough import passthrough
from eutectic.methods.pcb import pcb
from eutectic.methods.ram import ram
from eutectic.methods.sce import sce
from eutectic.methods.slerp import slerp
from eutectic.methods.task_arithmetic import task_arithmetic
from eutectic.methods.ties import ties
from eutectic.methods.trim import trim

__all__ = ["METHODS", "get"]


def _listed() -> Mapping[str, Method[Any]]:
    """Collects the methods of this package, then those other packages offer; a name taken twice is an error."""
    own: list[Method[Any]] = [
        breadcrumbs,
        dare,
        della,
        linear,
        magmax,
        model_stock,
        passthrough,
        pcb,
        ram,
        sce,
        slerp,
        task_arithmetic,
        ties,
        trim,
    ]
    found = {method.name: method for method in own}
    for entry in entry_points(group="eutectic.methods"):
        method = entry.load()
        if not isinstance(method, Method) or method.name in found:
            raise RecipeError(f"entry point {entry.name} ({entry.value}) is no new method; remove or rename it")
        found[method.name] = method
    return MappingProxyType(found)


METHODS: Mapping[str, Method[Any]] = _listed()


def get(name: str) -> Method[Any]:
    """Returns the method of that name.

    Raises:
        RecipeError: when there is none; the message suggests the nearest.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown method '{name}'{nearest(name, METHODS)} (`eutectic methods` lists them)")
    return METHODS[name]
