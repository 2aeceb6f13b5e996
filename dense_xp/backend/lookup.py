"""Which libraries there are, and which one an array belongs to."""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np

from dense_xp.backend.libraries import DPNP, JAX, CuPy, Library, Namespace, NumPy, Strict, Torch, namespace_of, native


def _extra(name: str) -> str:
    return f'pip install "dense-xp[{name}]"'


LIBRARIES: dict[str, Library] = {
    library.name: library
    for library in (
        NumPy("numpy", "array_api_compat.numpy", "pip install numpy"),
        CuPy("cupy", "array_api_compat.cupy", f"{_extra('cuda13')}  (CUDA 13) or  {_extra('cuda12')}"),
        Torch("torch", "array_api_compat.torch", _extra("torch")),
        JAX("jax", "jax.numpy", _extra("jax")),
        Strict("array_api_strict", "array_api_strict", "pip install array-api-strict"),
        DPNP("dpnp", "dpnp", "pip install dpnp"),
    )
}


SYNONYMS = {"pytorch": "torch", "np": "numpy", "cp": "cupy", "cuda": "cupy", "gpu": "auto", "cpu": "numpy"}


AUTO = ("cupy", "torch:cuda", "jax:gpu")  # in this order; then NumPy


@functools.cache
def loaded(library: Library) -> ModuleType:
    """Import a library once; looking through the installed packages takes milliseconds."""
    return library.load()


def library_of(array: Any) -> Library | None:
    """Return the library of an array; None for what is no array (lists, tables, numbers)."""
    if not array_api_compat.is_array_api_obj(array):
        return None
    for name, library in LIBRARIES.items():
        if name in sys.modules and library.owns(array):
            return library
    return library_for(namespace_of(array))


def library_for(module: ModuleType) -> Library:
    """Return the library of a namespace: one that is known, or a new one."""
    name = module.__name__.removeprefix("array_api_compat.")
    return LIBRARIES.get("jax" if name == "jax.numpy" else name) or Namespace(module)


def to_numpy(data: Any) -> np.ndarray[Any, Any]:
    """Copy an array of any library, or what NumPy can read, to the host.

    Parameters
    ----------
    data : array_like
        An array of any library, on any device; numbers, lists, tables.

    Returns
    -------
    numpy.ndarray
        It may share memory with `data`.

    Examples
    --------
    >>> to_numpy([1, 2])
    array([1, 2])
    """
    library = None if isinstance(data, np.ndarray) else library_of(data)
    return native(np.asarray(data)) if library is None else library.get(data)


def real_numbers(data: Any, what: str = "X") -> np.ndarray[Any, Any]:
    """Read host data as a NumPy array of real numbers, in whatever dtype they have.

    Parameters
    ----------
    data : array_like
        Numbers, nested lists, or an array or table that NumPy can read.
    what : str
        What to call it in an error.

    Returns
    -------
    numpy.ndarray
        It may share memory with `data`.

    Raises
    ------
    TypeError, ValueError
        If they are not a rectangular array of real numbers.
    """
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array; fill or drop its masked values first: {what}.filled(...)")
    try:
        host = native(np.asarray(data))
    except ValueError as error:
        raise ValueError(f"{what} is not a rectangular array of numbers: {error}") from error
    if host.dtype.kind not in "biuf":
        raise TypeError(
            f"{what} must hold real numbers, and NumPy reads it as dtype {host.dtype}"
            + ("; a sparse matrix needs  .toarray()" if hasattr(data, "toarray") else "")
        )
    return host
