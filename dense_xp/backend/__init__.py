"""Which array library, on which device.

The rest of the package asks a :class:`Backend` for its namespace ``xp`` and for what the Array API standard leaves
open. Array libraries are known by name in this chapter alone.
"""

from dense_xp.backend.backend import Backend
from dense_xp.backend.diagnosis import Availability, available_backends, everyday_backends, show_config
from dense_xp.backend.errors import (
    BackendError,
    ConflictingPackagesError,
    ForeignArrayError,
    ImportFailedError,
    NoDeviceError,
    NotInstalledError,
    UnknownBackendError,
)
from dense_xp.backend.libraries import Array
from dense_xp.backend.lookup import to_numpy
from dense_xp.backend.selection import (
    ENVIRONMENT_VARIABLE,
    backend_of,
    from_spec,
    get_backend,
    resolve,
    set_backend,
    use_backend,
)

__all__ = [
    "ENVIRONMENT_VARIABLE", "Array", "Availability", "Backend", "BackendError", "ConflictingPackagesError",
    "ForeignArrayError", "ImportFailedError", "NoDeviceError", "NotInstalledError", "UnknownBackendError",
    "available_backends", "backend_of", "everyday_backends", "from_spec", "get_backend", "resolve", "set_backend",
    "show_config", "to_numpy", "use_backend",
]  # fmt: skip
