"""What a run tells its observers. Observers can change no bit of the result."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Started:
    """A run begins: bytes it will read (statistics' sweeps included) and write; whether it resumes an earlier one."""

    reads: int
    writes: int
    resumed: bool


@dataclass(frozen=True)
class Progress:
    """Bytes read so far, of the bytes to read, and what the run is at; a download counts its own bytes first."""

    read: int
    total: int
    doing: str


@dataclass(frozen=True)
class Calibrating:
    """Parts of a model (its blocks) or batches that calibration has done, of so many, and what it is at."""

    done: int
    total: int
    doing: str


@dataclass(frozen=True)
class Finished:
    """The output is in place."""

    seconds: float
    nbytes: int


Event = Started | Calibrating | Progress | Finished
Observer = Callable[[Event], None]
