"""array-api-compat's own code for CuPy, over arrays of the host that count what makes the host wait for a device.

Whatever needs a number of the device in Python is a wait: ``bool``, ``int``, ``float``, and indexing with a boolean
mask, since CuPy has to know how many entries it selects.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np


class Counted(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that NumPy cannot read by accident."""

    waits: ClassVar[list[str]] = []

    def __init__(self, host: Any) -> None:
        self.host = np.asarray(host)

    shape = property(lambda self: self.host.shape)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    dtype = property(lambda self: self.host.dtype)
    T = property(lambda self: Counted(self.host.T))
    device = property(lambda self: Device(0))
    __hash__ = None  # type: ignore[assignment]

    def astype(self, dtype: Any, copy: bool = True) -> Counted:
        return Counted(self.host.astype(dtype, copy=copy))

    def copy(self) -> Counted:
        return Counted(self.host.copy())

    def __array_namespace__(self, **_: Any) -> Any:
        return sys.modules["array_api_compat.cupy"]

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is not None:
            kwargs["out"] = tuple(map(unwrapped, out))
        result = getattr(ufunc, method)(*map(unwrapped, inputs), **kwargs)
        return out[0] if out is not None else wrapped(result)

    def __getitem__(self, key: Any) -> Any:
        note_masks(key)
        return Counted(self.host[unwrapped(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        note_masks(key)
        self.host[unwrapped(key)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self.host)

    def __bool__(self) -> bool:
        Counted.waits.append("bool")
        return bool(self.host)

    def __int__(self) -> int:
        Counted.waits.append("int")
        return int(self.host)

    def __float__(self) -> float:
        Counted.waits.append("float")
        return float(self.host)


def note_masks(key: Any) -> None:
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, Counted) and part.dtype == bool:
            Counted.waits.append("a boolean mask")


def unwrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(unwrapped, value))
    return value.host if isinstance(value, Counted) else value


def wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(wrapped, value))
    return Counted(value) if isinstance(value, np.ndarray | np.generic) else value


class Device:
    def __init__(self, number: Any = None) -> None:
        self.id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


WAIT = {"nonzero", "flatnonzero", "argwhere", "unique", "repeat", "array_equal", "allclose", "extract", "compress"}


def _lifted(name: str, function: Any) -> Any:
    def call(*arguments: Any, device: Any = None, **kwargs: Any) -> Any:
        if name in WAIT:
            Counted.waits.append(name)
        if kwargs.get("out") is not None:
            kwargs["out"] = unwrapped(kwargs["out"])
        return wrapped(function(*map(unwrapped, arguments), **{k: unwrapped(v) for k, v in kwargs.items()}))

    return call


def _module(name: str, source: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    for key, value in vars(source).items():
        if not key.startswith("_"):
            plain = isinstance(value, type | types.ModuleType) or not callable(value) or key in ("finfo", "iinfo")
            setattr(module, key, value if plain or key == "isdtype" else _lifted(key, value))
    return module


@contextlib.contextmanager
def installed() -> Iterator[Any]:
    """Let ``array_api_compat.cupy`` be its own code over these arrays; yield it."""
    ours = {"cupy": _module("cupy", np), "cupy.linalg": _module("cupy.linalg", np.linalg)}
    ours |= {"cupy.fft": _module("cupy.fft", np.fft), "cupy.cuda": types.ModuleType("cupy.cuda")}
    ours["cupy.cuda.device"] = types.ModuleType("cupy.cuda.device")
    fake: Any = ours["cupy"]
    fake.ndarray = fake.generic = Counted
    fake.linalg, fake.fft, fake.cuda = ours["cupy.linalg"], ours["cupy.fft"], ours["cupy.cuda"]
    fake.cuda.Device = ours["cupy.cuda.device"].Device = Device  # type: ignore[attr-defined]
    fake.array = lambda data, dtype=None, copy=True: Counted(np.array(unwrapped(data), dtype=dtype, copy=copy or None))
    kept = {
        key: sys.modules.pop(key)
        for key in list(sys.modules)
        if key.partition(".")[0] == "cupy" or "compat.cupy" in key
    }
    package = sys.modules["array_api_compat"]
    before = vars(package).pop("cupy", None)
    sys.modules.update(ours)
    try:
        yield importlib.import_module("array_api_compat.cupy")
    finally:
        for key in [key for key in sys.modules if key.partition(".")[0] == "cupy" or "compat.cupy" in key]:
            del sys.modules[key]
        sys.modules.update(kept)
        vars(package).pop("cupy", None)
        if before is not None:
            package.cupy = before  # type: ignore[attr-defined]
