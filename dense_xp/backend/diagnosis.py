"""What works on this machine, and why the rest does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

from dense_xp.backend.backend import Backend
from dense_xp.backend.errors import BackendError
from dense_xp.backend.libraries import Library, first_line
from dense_xp.backend.lookup import LIBRARIES
from dense_xp.backend.selection import get_backend, resolve, setting


@dataclass(frozen=True)
class Availability:
    """What :func:`available_backends` found out about one library.

    Attributes
    ----------
    version : str or None
        Its version, if it could be imported.
    devices : tuple of str
        Its usable devices, the default one first.
    error : Exception or None
        Why it cannot be used; None when it can.
    """

    version: str | None
    devices: tuple[str, ...]
    error: Exception | None

    def __bool__(self) -> bool:
        return self.error is None


def available_backends() -> dict[str, Availability]:
    """Try each known library, by import and by counting its devices, and keep what went wrong.

    Returns
    -------
    dict of str to Availability
        Every known backend; its value is true when it can be used. No device memory is allocated.

    Examples
    --------
    >>> bool(available_backends()["numpy"])
    True
    """
    return {name: _probe(library) for name, library in LIBRARIES.items()}


def everyday_backends() -> list[Backend]:
    """Return NumPy, and every other backend that works here, on each of its devices; none that is made for tests.

    Examples
    --------
    >>> everyday_backends()[0].name
    'numpy'
    """
    found = available_backends()
    return [
        get_backend(name if library.devices() == ("cpu",) else f"{name}:{device}")
        for name, library in LIBRARIES.items()
        if library.everyday and found[name]
        for device in found[name].devices
    ]


def _probe(library: Library) -> Availability:
    version: str | None = None
    try:
        library.load()
        version = library.version()
        devices = library.devices()
        return Availability(version, devices, None if devices else library.no_device(""))
    except BackendError as error:
        return Availability(version, (), error)
    except Exception as error:
        fault = library.no_device("", f" ({first_line(error)})")
        fault.__cause__ = error
        return Availability(version, (), fault)


def show_config(file: TextIO | None = None) -> None:
    """Print the backend in force, who set it, and what every known library can do here.

    Parameters
    ----------
    file : text stream, optional
        Where to print; standard output by default.

    Examples
    --------
    >>> show_config()
    backend in force: numpy (from: default)
      numpy ...
    """
    backend, source = setting()
    print(f"backend in force: {backend or resolve()} (from: {source})", file=file)
    for name, found in available_backends().items():
        state = f"{found.version}, on {', '.join(found.devices)}" if found else f"not available: {found.error}"
        print(f"  {name:17} {state}", file=file)
