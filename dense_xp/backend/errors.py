"""What can go wrong with a backend.

    BackendError
    ├── UnknownBackendError       (ValueError)     there is no backend of that name
    ├── NotInstalledError         (ImportError)    its library is not installed
    ├── ImportFailedError         (ImportError)    it is, and cannot be imported
    ├── ConflictingPackagesError  (ImportError)    several CuPy packages overwrite each other
    ├── NoDeviceError             (RuntimeError)   the library works, and has no such device
    └── ForeignArrayError         (TypeError)      an array of another library or device

Each message names the remedy.
"""

from __future__ import annotations


class BackendError(Exception):
    """Base class of every fault in the choice or the use of a backend."""


class UnknownBackendError(BackendError, ValueError):
    """The name is not that of a backend; the message has the nearest one that is."""


class NotInstalledError(BackendError, ImportError):
    """The library is not installed; the message has the command that installs it."""


class ImportFailedError(BackendError, ImportError):
    """The library is installed, but its import failed; the cause is chained."""


class NoDeviceError(BackendError, RuntimeError):
    """The library works, but has no such device, or no driver for it."""


class ConflictingPackagesError(BackendError, ImportError):
    """Several CuPy packages are installed at once and overwrite each other's files."""


class ForeignArrayError(BackendError, TypeError):
    """The array belongs to another library or to another device than the layer."""
