"""The zoo: one file, one paper. To add a method, write its file, its test, and its line in `METHODS`.

Other packages add methods under the entry point group `eutectic.methods`: each entry names a `Method`.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from eutectic.errors import RecipeError, nearest
from eutectic.methods.arcee_fusion import arcee_fusion
from eutectic.methods.breadcrumbs import breadcrumbs
from eutectic.methods.cat import cat
from eutectic.methods.consensus import consensus
from eutectic.methods.core_space import core_space
from eutectic.methods.dare import dare
from eutectic.methods.dc_merge import dc_merge
from eutectic.methods.declare import Method
from eutectic.methods.della import della
from eutectic.methods.doge import doge
from eutectic.methods.elect import elect
from eutectic.methods.emr import emr
from eutectic.methods.factorwise import factorwise
from eutectic.methods.fedavg import fedavg
from eutectic.methods.fisher import fisher
from eutectic.methods.geometric_median import geometric_median
from eutectic.methods.iso_c import iso_c
from eutectic.methods.iso_cts import iso_cts
from eutectic.methods.karcher import karcher
from eutectic.methods.knots import knots
from eutectic.methods.linear import linear
from eutectic.methods.lot import lot
from eutectic.methods.magmax import magmax
from eutectic.methods.model_stock import model_stock
from eutectic.methods.multislerp import multislerp
from eutectic.methods.nearswap import nearswap
from eutectic.methods.nuslerp import nuslerp
from eutectic.methods.orthomerge import orthomerge
from eutectic.methods.passthrough import passthrough
from eutectic.methods.pcb import pcb
from eutectic.methods.peft import peft
from eutectic.methods.ram import ram
from eutectic.methods.regmean import regmean
from eutectic.methods.robustmerge import robustmerge
from eutectic.methods.sce import sce
from eutectic.methods.slerp import slerp
from eutectic.methods.tall_masks import tall_masks
from eutectic.methods.task_arithmetic import task_arithmetic
from eutectic.methods.tatr import tatr
from eutectic.methods.ties import ties
from eutectic.methods.trim import trim
from eutectic.methods.tsv_c import tsv_c
from eutectic.methods.tsv_m import tsv_m
from eutectic.methods.wudi import wudi
from eutectic.methods.ziplora import ziplora

__all__ = ["METHODS", "get"]


def _listed() -> Mapping[str, Method[Any]]:
    """Collects the methods of this package, then those other packages offer; a name taken twice is an error."""
    own: list[Method[Any]] = [
        arcee_fusion,
        breadcrumbs,
        cat,
        consensus,
        core_space,
        dare,
        dc_merge,
        della,
        doge,
        elect,
        emr,
        factorwise,
        fedavg,
        fisher,
        geometric_median,
        iso_c,
        iso_cts,
        karcher,
        knots,
        linear,
        lot,
        magmax,
        model_stock,
        multislerp,
        nearswap,
        nuslerp,
        orthomerge,
        passthrough,
        pcb,
        peft,
        ram,
        regmean,
        robustmerge,
        sce,
        slerp,
        tall_masks,
        task_arithmetic,
        tatr,
        ties,
        trim,
        tsv_c,
        tsv_m,
        wudi,
        ziplora,
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
