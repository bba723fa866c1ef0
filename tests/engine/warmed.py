"""Loaded once by the fork server: everything a merge needs, kernels included."""

from tests.engine.victim import warm

warm()
