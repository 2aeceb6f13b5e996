"""Which array library, on which device: from a name such as ``"cupy:1"`` to a :class:`Backend`.

This is the one module that knows array libraries by name. The rest of the package asks a
:class:`Backend` for its namespace ``xp`` and for the three things that the Array API standard leaves
open: how host data reach the device, how they come back, and how a function of arrays is compiled.

Precedence of the settings, highest first: the object's own ``backend=``; ``with use_backend(...)``;
:func:`set_backend`; the environment variable ``DENSE_XP_BACKEND``; the arrays handed to ``fit``; NumPy.
A GPU is taken only when it is asked for, and nothing is imported before it is chosen.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TextIO, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""

ENVIRONMENT_VARIABLE = "DENSE_XP_BACKEND"

_HOST = 1  # kDLCPU, as the DLPack protocol numbers kinds of devices


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


# ------------------------------------------------------------------------------------- the libraries


class _Library:
    """What the standard leaves open, answered for a library that needs nothing special."""

    def __init__(self, name: str, module: str, install: str) -> None:
        self.name = name
        self.module = module
        self.install = install

    def load(self) -> ModuleType:
        """Import the namespace, or say which of the faults it is."""
        root = self.module.partition(".")[0]
        package = self.name if root == "array_api_compat" else root
        if importlib.util.find_spec(package) is None:
            raise NotInstalledError(f"the backend {self.name!r} is not installed: run  {self.install}")
        self.check_packages()
        try:
            return importlib.import_module(self.module)
        except Exception as error:
            raise ImportFailedError(
                f"the backend {self.name!r} is installed, but importing it failed with "
                f"{type(error).__name__}: {_first_line(error)}. Repair that installation, for example with  "
                f"{self.install} --force-reinstall"
            ) from error

    def check_packages(self) -> None:
        """Raise if the installed packages cannot work together."""

    def version(self) -> str:
        return str(importlib.import_module(self.name).__version__)

    def devices(self) -> tuple[str, ...]:
        """Name the devices that work, the default first."""
        return ("cpu",)

    def device(self, text: str) -> Any:
        """Turn the text after the library's name into the library's device object."""
        if text in ("", "cpu"):
            return "cpu"
        raise self.no_device(text)

    def device_name(self, device: Any) -> str:
        """Return the text from which :meth:`device` makes this device again."""
        return str(device)

    def no_device(self, text: str, why: str = "") -> NoDeviceError:
        spec = f"{self.name}:{text}" if text else self.name
        return NoDeviceError(
            f"the backend {spec!r} has no usable device{why}. "
            f"Usable here: {', '.join(f'{self.name}:{d}' for d in self._working_devices()) or 'none'}; "
            "'auto' takes a GPU where there is one and the CPU otherwise"
        )

    def _working_devices(self) -> tuple[str, ...]:
        try:
            return self.devices()
        except Exception:
            return ()

    def owns(self, array: Any) -> bool:
        return isinstance(array, np.ndarray)

    def device_of(self, array: Array) -> Any:
        return array_api_compat.device(array)

    def same_device(self, array: Array, device: Any) -> bool:
        return bool(self.device_of(array) == device)

    def plain(self, array: Array) -> Array:
        """Strip what a subclass or a tape adds to the library's own array."""
        return array

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        return xp.asarray(host, device=device)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array)

    def lend(self, array: Array) -> Array:
        """Return what another library may see as its own array: the same memory."""
        return self.plain(array)

    def borrow(self, xp: Any, array: Array) -> Array:
        """See another library's array on this device as one of this library: the same memory."""
        return xp.from_dlpack(array)

    def scalars(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        return self.get(xp.stack(list(arrays)))

    def joined(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        return self.get(xp.concat(list(arrays), axis=0))

    def scope(self, device: Any) -> contextlib.AbstractContextManager[Any] | None:
        """Return the context in which this device's work must run; None where any will do."""
        return None

    def tf32(self, device: Any) -> bool:
        """Whether float32 matrix products round their factors to TF32, as things are set now."""
        return False

    everyday = True  # False for a library that is made for tests

    compiles = False
    kernels = ""

    def compile(self, function: Callable[..., Any], donated: tuple[int, ...]) -> Callable[..., Any]:
        return function

    def lane(self, device: Any) -> Any:
        """Return what copies to the device beside the computation, or None."""
        return None


class _NumPy(_Library):
    kernels = "host"

    def device_name(self, device: Any) -> str:
        return ""

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        return host


class _CuPy(_Library):
    kernels = "cupy"

    def check_packages(self) -> None:
        names = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy-rocm-5-0", "cupy-rocm-7-0")
        found = [name for name in names if _is_distribution(name)]
        if len(found) > 1:
            raise ConflictingPackagesError(
                f"several CuPy packages are installed at once ({', '.join(found)}) and break each other: "
                f"run  pip uninstall -y {' '.join(found)}  and then install the one for your CUDA version: "
                f"{self.install}"
            )

    def devices(self) -> tuple[str, ...]:
        runtime = importlib.import_module("cupy").cuda.runtime
        return tuple(str(i) for i in range(runtime.getDeviceCount()))

    def device(self, text: str) -> Any:
        cupy = importlib.import_module("cupy")
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:
            raise self.no_device(text, f" ({_first_line(error)}); check the driver with  nvidia-smi") from error
        index = text.removeprefix("cuda").removeprefix("gpu").removeprefix(":")
        number = cupy.cuda.runtime.getDevice() if not index and count else index
        if not str(number).isdigit() or int(number) >= count:
            raise self.no_device(text)
        return cupy.cuda.Device(int(number))

    def device_name(self, device: Any) -> str:
        return str(device.id)

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_cupy_array(array))

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        with device:
            return xp.asarray(host)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        with array.device:
            return np.asarray(array.get())

    def scope(self, device: Any) -> contextlib.AbstractContextManager[Any] | None:
        return device  # type: ignore[no-any-return]

    def lane(self, device: Any) -> Any:
        return importlib.import_module("dense_xp.kernels.cupy_lane").Lane(device)

    def tf32(self, device: Any) -> bool:
        return os.environ.get("CUPY_TF32") == "1" and int(device.compute_capability) >= 80


class _Torch(_Library):
    kernels = "torch"

    def devices(self) -> tuple[str, ...]:
        torch = importlib.import_module("torch")
        cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
        return ("cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else []))

    def device(self, text: str) -> Any:
        torch = importlib.import_module("torch")
        try:
            # an array knows its device in full: "cuda" becomes "cuda:0"
            return torch.empty(0, device=torch.device(text or "cpu")).device
        except Exception as error:
            build = "" if torch.version.cuda or "cuda" not in text else "; this torch is a build without CUDA"
            raise self.no_device(text, f" ({_first_line(error)}{build})") from error

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_torch_array(array))

    def plain(self, array: Array) -> Array:
        # the layer has its own backward pass; torch's tape would only keep every batch alive
        return array.detach()

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        # torch reads neither negative strides nor, without a warning, read-only memory
        host = np.require(host, requirements=["C", "W"])
        return importlib.import_module("torch").from_numpy(host).to(device)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        torch = importlib.import_module("torch")
        array = array.detach().cpu()
        # NumPy has no bfloat16, and float32 holds each of its values exactly
        return np.asarray((array.float() if array.dtype == torch.bfloat16 else array).numpy())

    def lane(self, device: Any) -> Any:
        return importlib.import_module("dense_xp.kernels.torch_lane").Lane(device) if device.type == "cuda" else None

    def tf32(self, device: Any) -> bool:
        torch = importlib.import_module("torch")
        return bool(device.type == "cuda" and torch.get_float32_matmul_precision() != "highest")


class _JAX(_Library):
    def devices(self) -> tuple[str, ...]:
        jax = importlib.import_module("jax")
        found = list(jax.devices("cpu"))
        found += [device for device in jax.devices() if device not in found]
        return tuple(map(self.device_name, found))

    def device(self, text: str) -> Any:
        jax = importlib.import_module("jax")
        platform, _, index = (text or "cpu").partition(":")
        try:
            return jax.devices(platform)[int(index or 0)]
        except Exception as error:
            raise self.no_device(text, f" ({_first_line(error)})") from error

    def device_name(self, device: Any) -> str:
        return f"{device.platform}:{device.id}"

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_jax_array(array))

    def same_device(self, array: Array, device: Any) -> bool:
        jax = importlib.import_module("jax")
        # an array under a trace has no device yet: it takes the one that the compiled function runs on
        return isinstance(array, jax.core.Tracer) or device in array.devices()

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        jax = importlib.import_module("jax")
        # JAX may alias host memory on a CPU device: hand it a copy that nobody else writes to
        return jax.device_put(np.array(host), device)

    # JAX's arrays never change, so it shares memory with nobody who may write into it: here too the device copies,
    # and the copy is complete before anybody else goes on
    def lend(self, array: Array) -> Array:
        return importlib.import_module("jax").numpy.array(array, copy=True).block_until_ready()

    def borrow(self, xp: Any, array: Array) -> Array:
        return xp.array(xp.from_dlpack(array), copy=True).block_until_ready()

    def scalars(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        # jnp.stack is traced anew for each number of arrays
        return np.asarray(importlib.import_module("jax").device_get(list(arrays)))

    def joined(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        return np.concatenate(importlib.import_module("jax").device_get(list(arrays)), axis=0)

    def tf32(self, device: Any) -> bool:
        chosen = importlib.import_module("jax").config.jax_default_matmul_precision
        return bool(device.platform in ("gpu", "cuda") and chosen not in ("highest", "float32"))

    compiles = True

    def compile(self, function: Callable[..., Any], donated: tuple[int, ...]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = importlib.import_module("jax").jit(function, donate_argnums=donated)
        return compiled


class _Strict(_Library):
    everyday = False

    def devices(self) -> tuple[str, ...]:
        info = importlib.import_module(self.module).__array_namespace_info__()
        return tuple(map(self.device_name, info.devices()))

    def device(self, text: str) -> Any:
        try:
            return importlib.import_module(self.module).Device("CPU_DEVICE" if text in ("", "cpu") else text)
        except ValueError as error:
            raise self.no_device(text, f" ({_first_line(error)})") from error

    def device_name(self, device: Any) -> str:
        name = repr(device).partition("'")[2].rstrip("')")
        return "cpu" if name == "CPU_DEVICE" else name

    def owns(self, array: Any) -> bool:
        return getattr(_namespace_of(array), "__name__", "") == self.module

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array.to_device(self.device("cpu")))


class _DPNP(_Library):
    def devices(self) -> tuple[str, ...]:
        dpctl = importlib.import_module("dpctl")
        return tuple(device.get_filter_string() for device in dpctl.get_devices())

    def device_name(self, device: Any) -> str:
        return str(device.sycl_device.get_filter_string())

    def device(self, text: str) -> Any:
        dpnp = importlib.import_module("dpnp")
        try:
            return dpnp.empty(0, dtype=dpnp.float32, device=text or "cpu").device
        except Exception as error:
            raise self.no_device(text, f" ({_first_line(error)})") from error

    def owns(self, array: Any) -> bool:
        return type(array).__module__.partition(".")[0] == "dpnp"

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(importlib.import_module("dpnp").asnumpy(array))


class _Other(_Library):
    """A namespace that the user passed as a module."""

    def __init__(self, namespace: ModuleType) -> None:
        super().__init__(namespace.__name__, namespace.__name__, f"pip install {namespace.__name__}")
        self.namespace = namespace

    def load(self) -> ModuleType:
        return self.namespace

    def device(self, text: str) -> Any:
        if text:
            raise self.no_device(text, ": a namespace passed as a module runs on its own default device")

    def device_name(self, device: Any) -> str:
        return ""

    def owns(self, array: Any) -> bool:
        return _namespace_of(array) is self.namespace

    def same_device(self, array: Array, device: Any) -> bool:
        return True

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        return xp.asarray(host)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array) if hasattr(array, "__array__") else np.from_dlpack(array)


def _extra(name: str) -> str:
    return f'pip install "dense-xp[{name}]"'


_LIBRARIES: dict[str, _Library] = {
    library.name: library
    for library in (
        _NumPy("numpy", "array_api_compat.numpy", "pip install numpy"),
        _CuPy("cupy", "array_api_compat.cupy", f"{_extra('cuda13')}  (CUDA 13) or  {_extra('cuda12')}"),
        _Torch("torch", "array_api_compat.torch", _extra("torch")),
        _JAX("jax", "jax.numpy", _extra("jax")),
        _Strict("array_api_strict", "array_api_strict", "pip install array-api-strict"),
        _DPNP("dpnp", "dpnp", "pip install dpnp"),
    )
}
_SYNONYMS = {"pytorch": "torch", "np": "numpy", "cp": "cupy", "cuda": "cupy", "gpu": "auto", "cpu": "numpy"}
_AUTO = ("cupy", "torch:cuda", "jax:gpu")  # in this order; then NumPy


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_distribution(name: str) -> bool:
    import importlib.metadata  # here, because it takes half as long to import as NumPy

    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _namespace_of(array: Any) -> Any:
    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        return None


# --------------------------------------------------------------------------------------- the backend


@dataclass(frozen=True)
class Backend:
    """One array library on one device. Made by :func:`get_backend`, never by hand.

    Attributes
    ----------
    name : str
        The library: ``"numpy"``, ``"cupy"``, ``"torch"``, ``"jax"`` …
    xp : module
        The library's Array API namespace.
    device : object
        The device, as the library itself names it.
    reason : str
        Why ``"auto"`` chose this backend; empty when it was named.
    """

    name: str
    xp: Any = field(compare=False, repr=False)
    device: Any
    _library: _Library = field(compare=False, repr=False)
    reason: str = field(default="", compare=False, repr=False)

    @property
    def spec(self) -> str:
        """The string from which :func:`get_backend` makes this backend again.

        Examples
        --------
        >>> get_backend("numpy").spec
        'numpy'
        """
        device = self._library.device_name(self.device)
        return f"{self.name}:{device}" if device else self.name

    def __str__(self) -> str:
        return self.spec

    def __reduce__(self) -> tuple[Callable[[str], Backend], tuple[str]]:
        return _restore, (self.spec,)

    def dtype(self, name: str) -> Any:
        """Return the library's dtype of that name, as its arrays carry it.

        Parameters
        ----------
        name : str
            ``"float32"``, ``"float64"`` or, where the library has them, ``"float16"`` and ``"bfloat16"``.

        Raises
        ------
        TypeError
            If the library has no such dtype, or not as it is set up now.

        Examples
        --------
        >>> get_backend("numpy").dtype("float32")
        dtype('float32')
        """
        return _dtype(self, name)

    def asarray(self, data: Any, dtype: str | None = None) -> Array:
        """Place data on this backend's device: the explicit way across.

        Two libraries on one device, such as NumPy and torch on the CPU or CuPy and torch on a GPU, share the
        memory; JAX, whose arrays never change, copies it on the device. Everything else goes through the host.

        Parameters
        ----------
        data : array_like
            Numbers, nested lists, an array of any backend, or one that NumPy can read.
        dtype : str, optional
            Its dtype there; by default that of ``data``.

        Returns
        -------
        array
            An array of this backend's library on its device. It may share memory with ``data``.

        Examples
        --------
        >>> get_backend("numpy").asarray([[1, 2]], dtype="float32")
        array([[1., 2.]], dtype=float32)
        """
        if self._library.owns(data) and self._library.same_device(data, self.device):
            data = self._library.plain(data)
            return data if dtype is None else self.cast(data, self.dtype(dtype))
        if (owner := self._neighbour(data)) is not None:
            with self.scope():
                array = self._library.borrow(self.xp, owner._library.lend(data))
                return array if dtype is None else self.cast(array, self.dtype(dtype))
        host = to_numpy(data)
        if dtype == "bfloat16":  # unknown to NumPy: rounded by the library, from float32
            return self.cast(self.asarray(host, "float32"), self.dtype("bfloat16"))
        if dtype is not None:
            host = host.astype(dtype, copy=False)
        elif self.name == "jax" and host.dtype.itemsize == 8:
            # without its 64-bit mode JAX narrows with a warning; say it is meant
            jax = importlib.import_module("jax")
            host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
        return self._library.put(self.xp, host, self.device)

    def _neighbour(self, data: Any) -> Backend | None:
        """Return the backend of an array that lies on this device; None in host memory, which NumPy sees anyway."""
        if isinstance(data, np.ndarray) or (place := _place(data)) is None or place[0] == _HOST:
            return None
        if place != _place(self.xp.empty(0, device=self.device)):
            return None
        owner = backend_of(data)
        # a library without bfloat16 gets float32, which is the host's way
        return owner if "bfloat16" not in str(data.dtype) or hasattr(self.xp, "bfloat16") else None

    def accept(self, data: Any, dtype: Any, what: str = "X") -> Array:
        """Check an array that a user handed to a layer, and give it the layer's dtype.

        Python numbers and lists are placed on the device. An array must be there already: data never
        move between libraries or devices unasked.

        Parameters
        ----------
        data : array or nested list of numbers
            What the user gave.
        dtype : dtype
            The layer's dtype, from :meth:`dtype`.
        what : str
            What to call it in an error.

        Returns
        -------
        array
            The same numbers in the layer's dtype, on this backend's device.

        Raises
        ------
        ForeignArrayError
            If it is an array of another library or on another device.
        TypeError
            If it does not hold real numbers.
        """
        library = self._library
        if library.owns(data) and self.name != "numpy":
            if not library.same_device(data, self.device):
                raise ForeignArrayError(
                    f"{what} is on the device {library.device_of(data)} and the layer on {self}: "
                    f"move the data with  layer.backend.asarray({what})  or the layer with  layer.to(...)"
                )
            return self.cast(library.plain(data), dtype, what)
        owner = _owner(data)
        if owner not in (None, self.name):
            raise ForeignArrayError(
                f"{what} is a {type(data).__name__} of {owner} and the layer is on {self}: move the data with  "
                f"layer.backend.asarray({what})  or the layer with  layer.to({owner!r})"
            )
        return self.cast(self.asarray(self.read(data, what)), dtype)

    def cast(self, array: Array, dtype: Any, what: str = "X") -> Array:
        """Give an array of this backend another dtype; no copy if it has it already.

        Parameters
        ----------
        array : array
            Of this backend.
        dtype : dtype
            From :meth:`dtype`.
        what : str
            What to call the array in an error.

        Returns
        -------
        array
            The same numbers.

        Raises
        ------
        TypeError
            If they are not real numbers.
        """
        if array.dtype == dtype:
            return array
        if not self.xp.isdtype(array.dtype, ("bool", "integral", "real floating")):
            raise TypeError(f"{what} must hold real numbers, and its dtype is {array.dtype}")
        return self.xp.astype(array, dtype)

    def read(self, data: Any, what: str = "X") -> np.ndarray[Any, Any]:
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
            host = np.asarray(data)
        except ValueError as error:
            raise ValueError(f"{what} is not a rectangular array of numbers: {error}") from error
        if host.dtype.kind not in "biuf":
            raise TypeError(
                f"{what} must hold real numbers, and NumPy reads it as dtype {host.dtype}"
                + ("; a sparse matrix needs  .toarray()" if hasattr(data, "toarray") else "")
            )
        return host

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy an array of this backend to the host.

        Parameters
        ----------
        array : array
            Of this backend.

        Returns
        -------
        numpy.ndarray
            The same numbers; bfloat16, which NumPy lacks, arrives as float32.

        Examples
        --------
        >>> get_backend("numpy").to_numpy(get_backend("numpy").xp.ones(2))
        array([1., 1.])
        """
        return self._library.get(array)

    def scalars(self, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        """Copy many 0-d arrays to the host at once.

        Parameters
        ----------
        arrays : sequence of array, each of shape ()
            Of this backend.

        Returns
        -------
        numpy.ndarray, shape (len(arrays),)
            In float64.
        """
        return self._library.scalars(self.xp, arrays).astype(np.float64)

    def joined(self, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        """Copy many arrays to the host at once, one after the other.

        Parameters
        ----------
        arrays : sequence of array, each of shape (n, ...)
            They differ at most in n.

        Returns
        -------
        numpy.ndarray
            Joined along the first axis, as float64.

        Examples
        --------
        >>> xp = get_backend("numpy").xp
        >>> get_backend("numpy").joined([xp.ones(2), xp.zeros(1)])
        array([1., 1., 0.])
        """
        return self._library.joined(self.xp, arrays).astype(np.float64)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which work on this device runs.

        Some functions of CuPy create their result on the current device whatever ``device=`` says, so
        work for a second GPU has to run inside that device's context. Elsewhere this does nothing.
        """
        return self._library.scope(self.device) or contextlib.nullcontext()

    @property
    def needs_scope(self) -> bool:
        """Whether work on this device must run inside :meth:`scope`."""
        return self._library.scope(self.device) is not None

    @property
    def tf32(self) -> bool:
        """Whether float32 matrix products are computed from factors rounded to 11 bits: NVIDIA's TF32.

        It is a setting of the library: ``CUPY_TF32=1`` for CuPy, ``torch.set_float32_matmul_precision``,
        ``jax_default_matmul_precision`` (where it is on unless turned off).

        Examples
        --------
        >>> get_backend("numpy").tf32
        False
        """
        return self._library.tf32(self.device)

    @property
    def compiles(self) -> bool:
        """Whether :meth:`compile` compiles: donated arguments are destroyed, and Python numbers cost a transfer."""
        return self._library.compiles

    @property
    def kernels(self) -> str:
        """Which of ``dense_xp.kernels`` work on its arrays in place; empty if none do."""
        return self._library.kernels

    def lane(self) -> Any:
        """Return what copies host data to the device while it computes; None where there is nothing to gain.

        See ``dense_xp.training.feeding``, which uses it.

        Examples
        --------
        >>> get_backend("numpy").lane() is None
        True
        """
        return self._library.lane(self.device)

    def compile(self, function: Callable[..., Any], donated: tuple[int, ...] = ()) -> Callable[..., Any]:
        """Compile a pure function of arrays: ``jax.jit`` for JAX, the function itself elsewhere.

        Parameters
        ----------
        function : callable
            A pure function of arrays and nested dicts of arrays.
        donated : tuple of int
            Positions of arguments whose memory the results may take. Where :attr:`compiles` is true, the
            caller must own these arrays alone, and not use them again.

        Returns
        -------
        callable
            With the same arguments and results.

        Examples
        --------
        >>> get_backend("numpy").compile(lambda x: 2 * x)(3)
        6
        """
        return self._library.compile(function, donated)


@functools.cache
def _dtype(backend: Backend, name: str) -> Any:
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(f"dtype must be 'float32', 'float64', 'float16' or 'bfloat16', and is {name!r}")
    if not hasattr(backend.xp, name):
        raise TypeError(f"{backend.name} has no dtype {name!r}; 'float32' is the one that every backend has")
    if backend.name == "jax" and name == "float64" and not importlib.import_module("jax").config.jax_enable_x64:
        raise TypeError(
            "JAX makes float32 of 'float64' unless its 64-bit mode is on: set the environment variable "
            "JAX_ENABLE_X64=1, or call  jax.config.update('jax_enable_x64', True)  first"
        )
    with backend.scope():
        return backend.xp.empty(0, dtype=getattr(backend.xp, name)).dtype


def _place(array: Any) -> tuple[int, int] | None:
    """Return kind and number of an array's device, as every library gives them; None if it has no single one."""
    try:
        kind, number = array.__dlpack_device__()
    except Exception:  # it has no such method, or is spread over several devices
        return None
    return int(kind), int(number)


def _owner(data: Any) -> str | None:
    """Return whose array it is; None for lists, tables and numbers, which NumPy reads."""
    if isinstance(data, np.ndarray | np.generic):
        return "numpy"
    return type(data).__module__.partition(".")[0] if array_api_compat.is_array_api_obj(data) else None


def _restore(spec: str) -> Backend:
    name = spec.partition(":")[0]
    return get_backend(spec if name in _LIBRARIES else importlib.import_module(spec))


# ------------------------------------------------------------------------------------- the selection

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


@functools.cache
def _loaded(name: str) -> ModuleType:
    """Import a library once; looking through the installed packages takes milliseconds."""
    return _LIBRARIES[name].load()


def _from_name(text: str) -> Backend:
    name, _, device = text.partition(":")
    name = name.replace("-", "_")
    if name not in _LIBRARIES:
        import difflib

        near = _SYNONYMS.get(name) or next(iter(difflib.get_close_matches(name, [*_LIBRARIES, "auto"], 1, 0.5)), None)
        raise UnknownBackendError(
            f"unknown backend {name!r}"
            + (f"; did you mean {near!r}?" if near else "")
            + f" Known: {', '.join([*_LIBRARIES, 'auto'])}, or an Array API namespace passed as a module"
        )
    library = _LIBRARIES[name]
    return Backend(name, _loaded(name), library.device(device), library)


def _from_module(module: ModuleType) -> Backend:
    name = module.__name__.removeprefix("array_api_compat.")
    name = "jax" if name == "jax.numpy" else name
    if name in _LIBRARIES:
        return _from_name(name)
    if not (hasattr(module, "asarray") and hasattr(module, "matmul")):
        raise UnknownBackendError(
            f"the module {module.__name__!r} is not an Array API namespace: it has no asarray or no matmul"
        )
    library = _Other(module)
    return Backend(module.__name__, module, None, library)


def _auto() -> Backend:
    refused = []
    for spec in _AUTO:
        try:
            chosen = _from_name(spec)
        except BackendError as error:
            refused.append(f"{spec}: {error}")
        else:
            return Backend(chosen.name, chosen.xp, chosen.device, chosen._library, f"{spec} has a device")
    chosen = _from_name("numpy")
    reason = "no GPU can be used. " + " | ".join(refused)
    return Backend(chosen.name, chosen.xp, chosen.device, chosen._library, reason)


def set_backend(spec: str | ModuleType | Backend | None) -> Backend | None:
    """Set the default backend of this process.

    Layers that are already initialized stay where they are.

    Parameters
    ----------
    spec : str or module or Backend or None
        As in :func:`get_backend`; None takes the setting back.

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


def _setting() -> tuple[Backend | None, str]:
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
    return _setting()[0] or next((b for b in map(backend_of, arrays) if b), None) or _from_name("numpy")


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
    if not array_api_compat.is_array_api_obj(array):
        return None
    for name, library in _LIBRARIES.items():
        if name.partition(".")[0] in sys.modules and library.owns(array):
            xp = _loaded(name)
            if name == "jax":
                return Backend(name, xp, next(iter(array.devices())), library)
            return Backend(name, xp, library.device_of(array), library)
    return _from_module(_namespace_of(array))


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
    backend = None if isinstance(data, np.ndarray) else backend_of(data)
    return np.asarray(data) if backend is None else backend.to_numpy(data)


# ------------------------------------------------------------------------------------- the diagnosis


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
    return {name: _probe(library) for name, library in _LIBRARIES.items()}


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
        for name, library in _LIBRARIES.items()
        if library.everyday and found[name]
        for device in found[name].devices
    ]


def _probe(library: _Library) -> Availability:
    version: str | None = None
    try:
        library.load()
        version = library.version()
        devices = library.devices()
        return Availability(version, devices, None if devices else library.no_device(""))
    except BackendError as error:
        return Availability(version, (), error)
    except Exception as error:
        fault = library.no_device("", f" ({_first_line(error)})")
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
    backend, source = _setting()
    print(f"backend in force: {backend or resolve()} (from: {source})", file=file)
    for name, found in available_backends().items():
        state = f"{found.version}, on {', '.join(found.devices)}" if found else f"not available: {found.error}"
        print(f"  {name:17} {state}", file=file)
