"""Sums over weights: what is not a law of all statistics (tests/laws/test_stats.py)."""

import numpy as np

from eutectic.stats.fold import Scope
from eutectic.stats.weights import Gram, restoring


def test_restoring() -> None:
    """All over kept, but for masses under 1e-7, which are left alone."""
    assert restoring(np.array([6.0, 5.0, 1.0, 1e-8]), np.array([3.0, 5.0, 0.0, 1e-9])) == (2.0, 1.0, 1.0, 1.0)
    assert restoring(np.array([1e-7]), np.array([1e-7])) == (1.0,)


def test_a_gram_of_what_all_tensors_have() -> None:
    """Where some tensors come with a base and others without, the products of the models are added."""
    gram = Gram(Scope.MODEL, "weights")
    with_base = np.array([[[9.0, 1.0, 2.0], [1.0, 4.0, 3.0], [2.0, 3.0, 5.0]]])
    state = {"a": with_base, "b": np.array([[[1.0, 2.0], [2.0, 6.0]]]), "c": np.zeros((0, 0, 0))}
    assert gram.finish(state).tolist() == [[5.0, 5.0], [5.0, 11.0]]
