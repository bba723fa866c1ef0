"""The optional libraries that calibration needs, each imported here when it is first used."""

from importlib import import_module
from types import ModuleType

from eutectic.errors import CalibrationError

#: What is installed for each module.
_EXTRAS = {
    "transformers": "models",
    "datasets": "data",
    "pyarrow.parquet": "data",
    "PIL.Image": "data",
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
            f"{why} needs {library}, which is not installed; pip install 'eutectic[{_EXTRAS[module]}]'"
        ) from error
