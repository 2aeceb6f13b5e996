"""Which backend is in force: from a name such as ``"cupy:1"`` to a :class:`Backend`.

Precedence, highest first: the object's own ``backend=``; ``with use_backend(...)``; :func:`set_backend`; the
environment variable ``DENSE_XP_BACKEND``; the arrays handed to ``fit``; NumPy. A GPU is taken only when it is asked
for.
"""

from __future__ import annotations

import contextlib
import copyreg
import importlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from types import ModuleType
from typing import Any

from dense_xp.backend.backend import Backend
from dense_xp.backend.errors import BackendError, UnknownBackendError
from dense_xp.backend.lookup import AUTO, LIBRARIES, SYNONYMS, library_for, library_of, loaded

ENVIRONMENT_VARIABLE = "DENSE_XP_BACKEND"

_scoped: ContextVar[Backend | None] = ContextVar("dense_xp_backend", default=None)
_default: Backend | None = None


def get_backend(spec: str | ModuleType | Backend | None = None) -> Backend:
    """Return the backend of that name, or the one that is set.

    Parameters
    ----------
    spec : str or module or Backend, optional
        ``"numpy"``, ``"cupy"``, ``"cupy:1"``, ``"torch"``, ``"torch:cuda:0"``, ``"jax"``, ``"jax:gpu:0"``,
        ``"array_api_strict:device1"``, ``"dpnp"``, ``"auto"``, or any Array API namespace. Without a
        device it is the CPU, except for CuPy. None means the setting in force.

    Returns
    -------
    Backend
        The library and the device.

    Raises
    ------
    UnknownBackendError, NotInstalledError, ImportFailedError, NoDeviceError, ConflictingPackagesError
        One for each way in which it can fail; each names the remedy.

    Examples
    --------
    >>> get_backend("numpy")
    Backend(name='numpy', device='cpu')
    """
    if spec is None:
        return resolve()
    if isinstance(spec, Backend):
        return spec
    if isinstance(spec, ModuleType):
        return _from_module(spec)
    if not isinstance(spec, str):
        raise UnknownBackendError(
            f"a backend is a name such as 'numpy' or an Array API module, and this is a {type(spec).__name__}"
        )
    text = spec.strip().lower()
    return _auto() if text == "auto" else _from_name(text)


def _from_name(text: str) -> Backend:
    name, _, device = text.partition(":")
    name = name.replace("-", "_")
    if name not in LIBRARIES:
        import difflib

        near = SYNONYMS.get(name) or next(iter(difflib.get_close_matches(name, [*LIBRARIES, "auto"], 1, 0.5)), None)
        raise UnknownBackendError(
            f"unknown backend {name!r}"
            + (f"; did you mean {near!r}?" if near else "")
            + f" Known: {', '.join([*LIBRARIES, 'auto'])}, or an Array API namespace passed as a module"
        )
    library = LIBRARIES[name]
    return Backend(name, loaded(library), library.device(device), library)


def _from_module(module: ModuleType) -> Backend:
    library = library_for(module)
    if library.name in LIBRARIES:
        return _from_name(library.name)
    if not (hasattr(module, "asarray") and hasattr(module, "matmul")):
        raise UnknownBackendError(
            f"the module {module.__name__!r} is not an Array API namespace: it has no asarray or no matmul"
        )
    return Backend(module.__name__, module, None, library)


def _auto() -> Backend:
    refused = []
    for spec in AUTO:
        try:
            return replace(_from_name(spec), reason=f"{spec} has a device")
        except BackendError as error:
            refused.append(f"{spec}: {error}")
    return replace(_from_name("numpy"), reason="no GPU can be used. " + " | ".join(refused))


def set_backend(spec: str | ModuleType | Backend | None) -> Backend | None:
    """Set the default backend of this process.

    Layers that are already initialized stay where they are.

    Parameters
    ----------
    spec : str or module or Backend or None
        As in :func:`get_backend`; None removes the setting.

    Returns
    -------
    Backend or None
        What was set.

    Examples
    --------
    >>> set_backend("numpy")
    Backend(name='numpy', device='cpu')
    >>> set_backend(None)
    """
    global _default
    _default = None if spec is None else get_backend(spec)
    return _default


@contextlib.contextmanager
def use_backend(spec: str | ModuleType | Backend) -> Iterator[Backend]:
    """Set the default backend inside a ``with`` block, in this thread or task alone.

    Parameters
    ----------
    spec : str or module or Backend
        As in :func:`get_backend`.

    Yields
    ------
    Backend
        What was set.

    Examples
    --------
    >>> with use_backend("numpy") as backend:
    ...     backend.name
    'numpy'
    """
    token = _scoped.set(get_backend(spec))
    try:
        yield get_backend()
    finally:
        _scoped.reset(token)


def setting() -> tuple[Backend | None, str]:
    """Return the backend that is set, and who set it."""
    if (scoped := _scoped.get()) is not None:
        return scoped, "use_backend"
    if _default is not None:
        return _default, "set_backend"
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        try:
            return get_backend(named), ENVIRONMENT_VARIABLE
        except BackendError as error:
            error.add_note(f"The environment variable {ENVIRONMENT_VARIABLE} names it.")
            raise
    return None, "default"


def resolve(explicit: Any = None, *arrays: Any) -> Backend:
    """Return the backend to use: that of the object, else the setting in force, else that of the arrays."""
    if explicit is not None:
        return get_backend(explicit)
    return setting()[0] or next((b for b in map(backend_of, arrays) if b), None) or _from_name("numpy")


def backend_of(array: Any) -> Backend | None:
    """Return the backend that an array lives on.

    Parameters
    ----------
    array : object
        An array of any library, or anything else.

    Returns
    -------
    Backend or None
        None for what is not an array (lists, tables, numbers).

    Examples
    --------
    >>> import numpy as np
    >>> backend_of(np.ones(3))
    Backend(name='numpy', device='cpu')
    """
    library = library_of(array)
    if library is None:
        return None
    return Backend(library.name, loaded(library), library.device_of(array), library)


def from_spec(spec: str) -> Backend:
    """Return the backend with this :attr:`Backend.spec`, which may name a module."""
    name = spec.partition(":")[0]
    return get_backend(spec if name in LIBRARIES else importlib.import_module(spec))


copyreg.pickle(Backend, lambda backend: (from_spec, (backend.spec,)))
