"""What the Array API standard leaves open, answered for each array library: the one place that knows them by name.

How host data reach the device, how they come back, which devices there are, how a function of arrays is compiled.
Nothing is imported before it is chosen.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from dense_xp.backend.errors import ConflictingPackagesError, ImportFailedError, NoDeviceError, NotInstalledError

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard."""


class Library:
    """What the standard leaves open; the methods here serve a library that needs nothing special."""

    def __init__(self, name: str, module: str, install: str) -> None:
        self.name = name
        self.module = module
        self.install = install

    def load(self) -> ModuleType:
        """Import the namespace; if that fails, the error says what is wrong with the installation."""
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
                f"{type(error).__name__}: {first_line(error)}. Repair that installation, for example with  "
                f"{self.install} --force-reinstall"
            ) from error

    def check_packages(self) -> None:
        """Raise if the installed packages cannot work together."""

    def version(self) -> str:
        """Return the version of the library."""
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
        """Return the text from which ``device`` makes this device again."""
        return str(device)

    def no_device(self, text: str, why: str = "") -> NoDeviceError:
        """Return the error for a device that cannot be used; its message lists those that can."""
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
        """Whether an array is one of this library."""
        return isinstance(array, np.ndarray)

    def device_of(self, array: Array) -> Any:
        """Return the device that an array is on."""
        return array_api_compat.device(array)

    def same_device(self, array: Array, device: Any) -> bool:
        """Whether an array is on a device."""
        return bool(self.device_of(array) == device)

    def plain(self, array: Array) -> Array:
        """Strip what a subclass or automatic differentiation adds to the library's own array."""
        return array

    def dtype(self, xp: Any, name: str, device: Any) -> Any:
        """Return the dtype of that name as arrays carry it; TypeError if the present settings allow none."""
        if not hasattr(xp, name):
            raise TypeError(f"{self.name} has no dtype {name!r}; 'float32' is the one that every backend has")
        return xp.empty(0, dtype=getattr(xp, name), device=device).dtype

    def narrowed(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return host data in a dtype that the library takes without a warning."""
        return host

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        """Bring a NumPy array to a device."""
        return xp.asarray(host, device=device)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        """Bring an array to NumPy, which has no bfloat16: that becomes float32."""
        return np.asarray(array)

    def lend(self, array: Array) -> Array:
        """Return what another library may see as its own array: the same memory."""
        return self.plain(array)

    def borrow(self, xp: Any, array: Array) -> Array:
        """See another library's array on this device as one of this library: the same memory."""
        return xp.from_dlpack(array)

    def scalars(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        """Bring arrays of shape () to NumPy, as one."""
        return self.get(xp.stack(list(arrays)))

    def joined(self, xp: Any, arrays: Sequence[Array]) -> np.ndarray[Any, Any]:
        """Bring arrays to NumPy, one after the other along the first axis."""
        return self.get(xp.concat(list(arrays), axis=0))

    def scope(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which work on this device runs."""
        return contextlib.nullcontext()

    def tf32(self, device: Any) -> bool:
        """Whether float32 matrix products round their factors to TF32, with the present settings."""
        return False

    everyday = True  # False for a library that is made for tests

    compiles = False
    needs_scope = False  # whether new arrays may be on another device without it
    kernels = ""  # the set in dense_xp.kernels that serves its arrays

    def compile(self, function: Callable[..., Any], donated: tuple[int, ...]) -> Callable[..., Any]:
        """Compile a pure function of arrays."""
        return function


class NumPy(Library):
    """NumPy."""

    kernels = "host"

    def device_name(self, device: Any) -> str:
        return ""

    def dtype(self, xp: Any, name: str, device: Any) -> Any:
        return np.dtype(name) if hasattr(xp, name) else super().dtype(xp, name, device)

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        return host

    def scope(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        # underflow and infinities are part of the mathematics, whatever numpy.seterr says of other programs
        return np.errstate(all="ignore")


class CuPy(Library):
    """CuPy."""

    kernels = "cupy"
    needs_scope = True

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

    def no_device(self, text: str, why: str = "") -> NoDeviceError:
        return super().no_device(text, why and f"{why}; check the driver with  nvidia-smi")

    def device(self, text: str) -> Any:
        cupy = importlib.import_module("cupy")
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except Exception as error:
            raise self.no_device(text, f" ({first_line(error)})") from error
        index = text.removeprefix("cuda").removeprefix("gpu").removeprefix(":")
        number = cupy.cuda.runtime.getDevice() if not index and count else index
        if not str(number).isdigit() or int(number) >= count:
            raise self.no_device(text)
        return cupy.cuda.Device(int(number))

    def device_name(self, device: Any) -> str:
        return str(device.id)

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_cupy_array(array))

    def dtype(self, xp: Any, name: str, device: Any) -> Any:
        if name == "bfloat16":  # its arrays can hold ml_dtypes' one, for which isdtype and finfo raise
            raise TypeError("CuPy has no bfloat16 of its own: take 'float16' or 'float32', or the backend 'torch:cuda'")
        return np.dtype(name)  # CuPy's dtypes are NumPy's

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        with device:  # CuPy places arrays on the current device, whatever device= says
            return xp.asarray(host)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        with array.device:
            return np.asarray(array.get())

    def scope(self, device: Any) -> contextlib.AbstractContextManager[Any]:
        return device  # type: ignore[no-any-return]

    def tf32(self, device: Any) -> bool:
        # CuPy decides once, at its first product, from CUPY_TF32 and the hardware
        core = importlib.import_module("cupy._core")
        with device:
            return bool(core.get_compute_type(np.float32) == core._routines_linalg.COMPUTE_TYPE_TF32)


class Torch(Library):
    """PyTorch, on any of its devices."""

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
            raise self.no_device(text, f" ({first_line(error)}{build})") from error

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_torch_array(array))

    def plain(self, array: Array) -> Array:
        # the layer has its own backward pass; autograd's graph would only keep every batch in memory
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

    def tf32(self, device: Any) -> bool:
        torch = importlib.import_module("torch")
        if device.type != "cuda":
            return False
        # once the newer setting was used, the older one raises when it is read
        newer = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
        return bool(torch.get_float32_matmul_precision() != "highest" if newer is None else newer == "tf32")


class JAX(Library):
    """JAX."""

    def devices(self) -> tuple[str, ...]:
        jax = importlib.import_module("jax")
        found = list(jax.devices("cpu"))
        found += [device for device in jax.devices() if device not in found]
        return tuple(map(self.device_name, found))

    def device(self, text: str) -> Any:
        jax = importlib.import_module("jax")
        platform, _, index = (text or "cpu").partition(":")
        try:
            number = int(index or 0)
            if number < 0:
                raise IndexError("devices are counted from 0")
            return jax.devices(platform)[number]
        except Exception as error:
            raise self.no_device(text, f" ({first_line(error)})") from error

    def device_name(self, device: Any) -> str:
        return f"{device.platform}:{device.id}"

    def owns(self, array: Any) -> bool:
        return bool(array_api_compat.is_jax_array(array))

    def same_device(self, array: Array, device: Any) -> bool:
        jax = importlib.import_module("jax")
        # an array under a trace has no device yet: it takes the one that the compiled function runs on
        return isinstance(array, jax.core.Tracer) or device in array.devices()

    def device_of(self, array: Array) -> Any:
        return next(iter(array.devices()))

    def dtype(self, xp: Any, name: str, device: Any) -> Any:
        if name == "float64" and not importlib.import_module("jax").config.jax_enable_x64:
            raise TypeError(
                "JAX makes float32 of 'float64' unless its 64-bit mode is on: set the environment variable "
                "JAX_ENABLE_X64=1, or call  jax.config.update('jax_enable_x64', True)  first"
            )
        return super().dtype(xp, name, device)

    def narrowed(self, host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # without its 64-bit mode JAX would narrow by itself, with a warning
        wide = host.dtype.itemsize == 8
        jax = importlib.import_module("jax")
        return host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False) if wide else host

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        host = np.asarray(array)
        # to NumPy, bfloat16 is raw memory (kind "V"); float32 holds each of its values exactly
        return host.astype("float32") if host.dtype.kind == "V" else host

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        jax = importlib.import_module("jax")
        # JAX may alias host memory on a CPU device: hand it a copy that nobody else writes to
        return jax.device_put(np.array(host), device)

    # JAX's arrays must never change, and another library may write into memory that it shares: so the device copies
    # in both directions, and the copy is complete before the other library goes on
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


class Strict(Library):
    """array-api-strict, which is made for tests."""

    everyday = False

    scope = NumPy.scope  # its arrays are NumPy's

    def devices(self) -> tuple[str, ...]:
        info = importlib.import_module(self.module).__array_namespace_info__()
        return tuple(map(self.device_name, info.devices()))

    def device(self, text: str) -> Any:
        try:
            return importlib.import_module(self.module).Device("CPU_DEVICE" if text in ("", "cpu") else text)
        except ValueError as error:
            raise self.no_device(text, f" ({first_line(error)})") from error

    def device_name(self, device: Any) -> str:
        name = repr(device).partition("'")[2].rstrip("')")
        return "cpu" if name == "CPU_DEVICE" else name

    def owns(self, array: Any) -> bool:
        return getattr(namespace_of(array), "__name__", "") == self.module

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array.to_device(self.device("cpu")))


class DPNP(Library):
    """dpnp, on SYCL devices."""

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
            raise self.no_device(text, f" ({first_line(error)})") from error

    def owns(self, array: Any) -> bool:
        return type(array).__module__.partition(".")[0] == "dpnp"

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(importlib.import_module("dpnp").asnumpy(array))


class Namespace(Library):
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
        return namespace_of(array) is self.namespace

    def same_device(self, array: Array, device: Any) -> bool:
        return True

    def put(self, xp: Any, host: np.ndarray[Any, Any], device: Any) -> Array:
        return xp.asarray(host)

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        return np.asarray(array) if hasattr(array, "__array__") else np.from_dlpack(array)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _is_distribution(name: str) -> bool:
    import importlib.metadata  # here, because it takes half as long to import as NumPy

    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def namespace_of(array: Any) -> Any:
    """Return the Array API namespace of an array; None if it has none."""
    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        return None


def native(host: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return numbers in the byte order of this machine, the only one that kernels and devices know."""
    return host if host.dtype.isnative else host.astype(host.dtype.newbyteorder("="))
