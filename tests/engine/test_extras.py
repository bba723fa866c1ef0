from dataclasses import replace

import numpy as np
import torch

from eutectic.engine.execute import row_width
from eutectic.engine.extras import places
from eutectic.methods import get
from eutectic.methods.declare import Locality
from eutectic.recipe.resolve import ResolvedStep
from tests.make.sites import Job, table


def test_places_of_a_slice() -> None:
    """Each model's part goes to its own file; numbers go with the first slice and with no other."""
    base = table([1, 2, 3, 4])
    site = Job([("emr", {})], [base + 1, base - 1], base).chains[0].site
    bits, numbers = np.array([1, 2, 3, 4], np.uint8), np.arange(8, dtype=np.uint8)
    first = [(name, at, part.tolist()) for name, at, part in places(site, True, 0, [bits, numbers])]
    assert first == [
        ("tasks/task-1.safetensors:w:emr.mask", 0, [1, 2]),
        ("tasks/task-2.safetensors:w:emr.mask", 0, [3, 4]),
        ("tasks/task-1.safetensors:w:emr.rescaler", 0, [0, 1, 2, 3]),
        ("tasks/task-2.safetensors:w:emr.rescaler", 0, [4, 5, 6, 7]),
    ]
    later = [(at, part.tolist()) for _, at, part in places(site, True, 65536, [bits, numbers[:0]])]
    assert later == [(8192, [1, 2]), (8192, [3, 4])]


def test_slices_of_rows_fill_bytes() -> None:
    """Where a chain goes by rows of 6, bits fill whole bytes every 4 rows; of 16, every row."""
    method = replace(get("emr"), needs=replace(get("emr").needs, locality=Locality.ROW))
    for width, together in ((6, 24), (16, 16), (5, 40)):
        base = torch.ones(3, width)
        site = Job([("emr", {})], [base], base).chains[0].site
        by_rows = replace(site, steps=(ResolvedStep(method, site.steps[0].values, {}),))
        assert (row_width(site), row_width(by_rows)) == (1, together)


def test_nothing_to_place() -> None:
    """Without extras there is nothing."""
    site = Job([("linear", {})], [torch.ones(3), torch.ones(3)]).chains[0].site
    assert list(places(site, False, 0, [])) == []
