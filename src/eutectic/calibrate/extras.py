"""The optional libraries that calibration needs, each imported here when it is first used."""

from importlib import import_module
from types import ModuleType

from eutectic.errors import CalibrationError

#: The extra that each library comes with.
_EXTRAS = {
    "transformers": "models",
    "datasets": "data",
    "pyarrow": "data",
    "PIL": "data",
}


def load(module: str, why: str) -> ModuleType:
    """Imports an optional library.

    Raises:
        CalibrationError: when it is not installed; says how to.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise CalibrationError(
            f"{why} needs {library}, which is not installed; pip install 'eutectic[{_EXTRAS[library]}]'"
        ) from error
