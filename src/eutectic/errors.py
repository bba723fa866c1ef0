"""Every error eutectic raises on purpose, by what the caller can do about it.

    EutecticError
    ├── RecipeError        fix the recipe: the message names file, line and the nearest key
    ├── CheckpointError    fix or replace a file: the message names path, tensor and the rule broken
    ├── MismatchError      the models do not fit together: names, shapes, and the policy that would pass
    ├── OverBudget         give more memory, or take the smaller settings the message names
    ├── OutputError        choose another output folder, or make room: what is there, and why it stays
    ├── CalibrationError   fix the calibration data
    └── UndeclaredNeed     a bug in a method: it read what it did not declare

A message says what was expected, what was found, where, and what to do next.
"""

import difflib
from collections.abc import Iterable


class EutecticError(Exception):
    """Base of all errors raised on purpose."""


class RecipeError(EutecticError):
    """The recipe asks for something that does not exist or cannot be."""


class CheckpointError(EutecticError):
    """A file breaks a rule of its format, or changed while it was read."""


class MismatchError(EutecticError):
    """The models do not fit together under the recipe's policies."""


class OverBudget(EutecticError):
    """The plan needs more memory than it was given. `needed` is the least that works, in bytes."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class OutputError(EutecticError):
    """The output folder cannot be used, or writing to it failed."""


class CalibrationError(EutecticError):
    """The calibration data is missing, empty or does not fit the model."""


class UndeclaredNeed(EutecticError):
    """A method read something it did not declare."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the closest of `known`, or an empty string when none is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
