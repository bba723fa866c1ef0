import numpy as np
import torch

from eutectic.engine.extras import places
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


def test_nothing_to_place() -> None:
    """Without extras there is nothing."""
    site = Job([("linear", {})], [torch.ones(3), torch.ones(3)]).chains[0].site
    assert list(places(site, False, 0, [])) == []
