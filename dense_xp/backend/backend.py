"""One array library on one device: the handle that the rest of the package asks for."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import array_api_compat
import numpy as np

from dense_xp.backend.errors import ForeignArrayError
from dense_xp.backend.libraries import Array, Library
from dense_xp.backend.lookup import library_of, real_numbers, to_numpy

_HOST = 1  # kDLCPU, as the DLPack protocol numbers kinds of devices


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
    library : Library
        What the standard leaves open, answered for this library.
    reason : str
        Why ``"auto"`` chose this backend; empty when it was named.
    spec : str
        The string from which :func:`get_backend` makes this backend again.

    Examples
    --------
    >>> from dense_xp import get_backend
    >>> get_backend("numpy").spec
    'numpy'
    """

    name: str
    xp: Any = field(compare=False, repr=False)
    device: Any
    library: Library = field(compare=False, repr=False)
    reason: str = field(default="", compare=False, repr=False)
    spec: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        device = self.library.device_name(self.device)
        object.__setattr__(self, "spec", f"{self.name}:{device}" if device else self.name)

    def __hash__(self) -> int:
        return hash(self.spec)  # and not of the device: CuPy's devices have no hash

    def __str__(self) -> str:
        return self.spec

    def dtype(self, name: str) -> Any:
        """Return the library's dtype of that name, as its arrays carry it.

        Parameters
        ----------
        name : str
            ``"float32"``, ``"float64"`` or, where the library has them, ``"float16"`` and ``"bfloat16"``.

        Raises
        ------
        TypeError
            If the library has no such dtype, or not with its present settings.

        Examples
        --------
        >>> from dense_xp import get_backend
        >>> get_backend("numpy").dtype("float32")
        dtype('float32')
        """
        return _dtype(self, name)

    def asarray(self, data: Any, dtype: str | None = None) -> Array:
        """Bring data to this backend's device.

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
        >>> from dense_xp import get_backend
        >>> get_backend("numpy").asarray([[1, 2]], dtype="float32")
        array([[1., 2.]], dtype=float32)
        """
        if self.library.owns(data) and self.library.same_device(data, self.device):
            data = self.library.plain(data)
            return data if dtype is None else self.cast(data, self.dtype(dtype))
        if (owner := self._neighbour(data)) is not None:
            with self.scope():
                array = self.library.borrow(self.xp, owner.lend(data))
                return array if dtype is None else self.cast(array, self.dtype(dtype))
        host = to_numpy(data)
        if dtype == "bfloat16":  # unknown to NumPy: rounded by the library, from float32
            return self.cast(self.asarray(host, "float32"), self.dtype("bfloat16"))
        host = self.library.narrowed(host) if dtype is None else host.astype(dtype, copy=False)
        return self.library.put(self.xp, host, self.device)

    def _neighbour(self, data: Any) -> Library | None:
        """Return the library of an array that lies on this device; None in host memory, which NumPy sees anyway."""
        if isinstance(data, np.ndarray) or (place := _place(data)) is None or place[0] == _HOST:
            return None
        with self.scope():
            if place != _place(self.xp.empty(0, device=self.device)):
                return None
        owner = library_of(data)
        # to a library without bfloat16 the array goes through the host, as float32
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
        library = self.library
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
        return self.cast(self.asarray(real_numbers(data, what)), dtype)

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
        with self.scope():
            return self.xp.astype(array, dtype)

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
        >>> from dense_xp import get_backend
        >>> get_backend("numpy").to_numpy(get_backend("numpy").xp.ones(2))
        array([1., 1.])
        """
        return self.library.get(array)

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
        with self.scope():
            return self.library.scalars(self.xp, arrays).astype(np.float64)

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
        >>> from dense_xp import get_backend
        >>> xp = get_backend("numpy").xp
        >>> get_backend("numpy").joined([xp.ones(2), xp.zeros(1)])
        array([1., 1., 0.])
        """
        with self.scope():
            return self.library.joined(self.xp, arrays).astype(np.float64)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which work on this device runs.

        Some functions of CuPy create their result on the current device whatever ``device=`` says, so
        work for a second GPU has to run inside that device's context. On NumPy it keeps ``numpy.seterr`` from
        making errors of underflow and infinities; elsewhere it does nothing.
        """
        return self.library.scope(self.device)

    @property
    def needs_scope(self) -> bool:
        """Whether work on this device must run inside :meth:`scope`."""
        return self.library.needs_scope

    @property
    def tf32(self) -> bool:
        """Whether float32 matrix products are computed from factors rounded to 11 bits: NVIDIA's TF32.

        It is a setting of the library: ``CUPY_TF32=1`` for CuPy, ``torch.set_float32_matmul_precision``,
        ``jax_default_matmul_precision`` (where it is on unless turned off).

        Examples
        --------
        >>> from dense_xp import get_backend
        >>> get_backend("numpy").tf32
        False
        """
        return self.library.tf32(self.device)

    @property
    def compiles(self) -> bool:
        """Whether :meth:`compile` compiles: donated arguments are destroyed, and Python numbers cost a transfer."""
        return self.library.compiles

    @property
    def kernels(self) -> str:
        """Which of ``dense_xp.kernels`` work on its arrays in place; empty if none do."""
        return self.library.kernels

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
        >>> from dense_xp import get_backend
        >>> get_backend("numpy").compile(lambda x: 2 * x)(3)
        6
        """
        return self.library.compile(function, donated)


@functools.cache
def _dtype(backend: Backend, name: str) -> Any:
    if name not in ("float16", "bfloat16", "float32", "float64"):
        raise TypeError(f"dtype must be 'float32', 'float64', 'float16' or 'bfloat16', and is {name!r}")
    return backend.library.dtype(backend.xp, name, backend.device)


def _place(array: Any) -> tuple[int, int] | None:
    """Return DLPack's kind and number of an array's device; None if it has no single one."""
    try:
        kind, number = array.__dlpack_device__()
    except Exception:  # it has no such method, or is spread over several devices
        return None
    return int(kind), int(number)


def _owner(data: Any) -> str | None:
    """Return the name of an array's library; None for lists, tables and numbers, which NumPy reads."""
    if isinstance(data, np.ndarray | np.generic):
        return "numpy"
    return type(data).__module__.partition(".")[0] if array_api_compat.is_array_api_obj(data) else None
