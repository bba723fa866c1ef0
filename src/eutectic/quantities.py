"""Bytes and seconds: read what people write, print what people read."""

import re

from eutectic.errors import RecipeError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_MOST = 2**63
_SIZE = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """Reads a size such as `"256MiB"`, `"5 GB"` or `1000`, in bytes.

    Raises:
        RecipeError: when the text is not a size, is not above zero, or is more than a file can hold.
    """
    if isinstance(text, int):
        size = text
    else:
        found = _SIZE.fullmatch(text)
        if found is None:
            raise RecipeError(f"expected a size such as '4 GiB' or '500MB', found {text[:40]!r}")
        wide = float(found[1]) * _UNITS[(found[2] or "").lower()]
        size = int(wide) if wide < _MOST else _MOST
    if size <= 0:
        raise RecipeError(f"expected a size above zero, found {str(text)[:40]!r}")
    if size >= _MOST:
        raise RecipeError(f"expected a size below 2**63 bytes, found {str(text)[:40]!r}")
    return size


def format_bytes(size: int) -> str:
    """Prints a number of bytes in the largest binary unit that keeps it at or above one: `"3.2 GiB"`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """Prints a duration as people say it: `"0.4 s"`, `"12 s"`, `"3 min 20 s"`, `"2 h 05 min"`."""
    if seconds < 9.95:  # what would print as 10.0 s is 10 s
        return f"{seconds:.1f} s"
    if seconds < 89.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
