"""The hot loops of a training step, written again to work in memory that the step owns.

The specification of each is the pure function of the layer, loss or optimizer that it stands for; the tests
hold it against that within the rounding-error bound. A kernel writes into the arrays that it was given and
knows neither layers nor models. :mod:`dense_xp.kernels.numpy` needs NumPy alone;
:mod:`dense_xp.kernels.numba` replaces the loops that gain by being compiled; the others serve the arrays of
their library, and leave out what that library has no better way for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
from types import ModuleType
from typing import Any

REQUIRED = (
    "product", "columns_product", "linear", "linear_backward", "dropout", "softmax_cross_entropy", "squared_error",
    "sgd", "momentum", "rmsprop", "rmsprop_momentum", "adam", "adagrad", "lion", "clip", "clip_norm",
)  # fmt: skip
"""What every set of kernels has, with the same parameters; NumPy's says what each does."""

OPTIONAL = (
    "empty", "relu", "relu_backward", "tanh", "tanh_backward", "sigmoid", "sigmoid_backward", "layer_norm",
    "layer_norm_backward", "chain", "chain_backward", "Recorder",
)  # fmt: skip
"""What a set may leave out: the pure functions, or one call for each layer, serve as well."""


def optional(kernels: Any, name: str) -> Any:
    """Return a kernel that a set may leave out; None if it does.

    Examples
    --------
    >>> optional(kernels_for("host"), "Recorder") is None
    True
    """
    assert name in REQUIRED + OPTIONAL, name
    return getattr(kernels, name, None)


def kernels_for(family: str) -> ModuleType:
    """Return the kernels of a family, as :attr:`dense_xp.backend.Backend.kernels` names it.

    Examples
    --------
    >>> kernels_for("host") is host_kernels()
    True
    """
    return host_kernels() if family == "host" else importlib.import_module(f"dense_xp.kernels.{family}")


def lane_for(family: str, device: object) -> Any:
    """Return what copies host data to a device while it computes; None where there is nothing to gain.

    Parameters
    ----------
    family : str
        As in :func:`kernels_for`.
    device : object
        As the library names it.

    Examples
    --------
    >>> lane_for("host", "cpu") is None
    True
    """
    if family == "cupy" or (family == "torch" and getattr(device, "type", "") == "cuda"):
        return importlib.import_module(f"dense_xp.kernels.{family}_lane").Lane(device)
    return None


@functools.lru_cache(maxsize=8)  # asked for by every block of a step
def one_minus_power(beta: float, steps: int) -> float:
    """Return 1 - βᵗ without cancellation.

    Examples
    --------
    >>> one_minus_power(0.5, 1)
    0.5
    """
    return -math.expm1(steps * math.log(beta)) if beta else 1.0


@functools.cache
def host_kernels() -> ModuleType:
    """Return the fastest kernels for NumPy arrays that can be used here: compiled ones if numba works.

    Examples
    --------
    >>> host_kernels().NAME in ("numpy", "numba")
    True
    """
    if importlib.util.find_spec("numba") is not None:
        try:
            return importlib.import_module("dense_xp.kernels.numba")
        except ImportError:  # a numba that does not fit this NumPy; everything works without it
            pass
    return importlib.import_module("dense_xp.kernels.numpy")
