"""The error of tables, and imports of the libraries that read them."""

from __future__ import annotations

from typing import Any


class TableError(ValueError):
    """A table cannot be read, or does not fit; the message says why and what to do."""


def require_polars() -> Any:
    """Import polars, or raise ImportError with the command that installs it."""
    try:
        import polars
    except ModuleNotFoundError:
        raise ImportError('tables are read with polars: run  pip install "dense-xp[cli]"') from None
    return polars


def require_pyarrow() -> tuple[Any, Any]:
    """Return ``pyarrow.parquet`` and ``pyarrow``, or raise ImportError with the command that installs them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ImportError(
            'row groups of Parquet files are read with pyarrow: run  pip install "dense-xp[cli]"'
        ) from None
    return pyarrow.parquet, pyarrow
