"""The hot loops of a training step, written again to work in memory that the step owns.

The specification of each is the pure function of the layer, loss or optimizer that it stands for; the tests
hold it against that within the rounding-error bound. A kernel writes into the arrays that it was given and
knows neither layers nor models. :mod:`dense_xp.kernels.numpy` needs NumPy alone;
:mod:`dense_xp.kernels.numba` replaces the loops that gain by being compiled; the others serve the arrays of
their library, and leave out what would gain nothing there.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

REQUIRED = {
    "product": "A, B, out",
    "columns_product": "A, B, out",
    "linear": "Z, bias",
    "linear_backward": "grad, Z, grad_bias",
    "dropout": "X, keep, scale, out",
    "softmax_cross_entropy": "Z, labels, smoothing",
    "squared_error": "Y, target",
    "sgd": "param, grad, rate, decay",
    "momentum": "param, grad, velocity, rate, decay, mu, nesterov",
    "rmsprop": "param, grad, mean_square, rate, decay, rho, epsilon",
    "rmsprop_momentum": "param, grad, mean_square, velocity, rate, decay, rho, epsilon, mu",
    "adam": "param, grad, mean, mean_square, rate, decay, beta_1, beta_2, epsilon, steps",
    "adagrad": "param, grad, total, rate, decay, epsilon",
    "lion": "param, grad, momentum, rate, decay, beta_1, beta_2",
    "clip": "grad, limit",
    "clip_norm": "grads, allowed",
}
"""What every set of kernels has, with its parameters; NumPy's set says what each does."""

OPTIONAL = {
    "empty": "shape, dtype, device",
    "relu": "Z, bias",
    "relu_backward": "grad, Y, grad_bias",
    "tanh": "Z, bias",
    "tanh_backward": "grad, Y, grad_bias",
    "sigmoid": "Z, bias",
    "sigmoid_backward": "grad, Y, grad_bias",
    "activation": "name, constants, Z, bias, Y",
    "activation_backward": "grad, slope, grad_bias",
    "layer_norm": "X, gamma, beta, epsilon, normed, inverse, Y",
    "layer_norm_backward": "grad, gamma, normed, inverse, grad_gamma, grad_beta, out",
    "int8_product": "X, Q, out",
    "few_rows": "rows, shapes",
    "few_product": "A, B, out",
    "learn": "X, grad, W, state, kernel, constants",
    "chain": "X, params, widths, rectified, outputs",
    "chain_backward": "X, grad, params, widths, rectified, outputs, grads, scratch, wanted",
    "uniform_at_least": "bound, shape, words",
    "epilogues": "",
    "LARGER_TILES": "",
    "Recorder": "count, dtype",
    "Panels": "layers",
    "compiles_first": "",
}
"""What a set may leave out, a kernel together with its backward: pure functions, or one call a layer, replace it."""


class Recorder(Protocol):
    """Calls a function that launches the same work each time; after a few calls, repeats it as one CUDA graph.

    Attributes
    ----------
    numbers : array
        On the device: the numbers that change from call to call.
    reason : str
        Why no more graphs are recorded; empty if they can be.
    """

    numbers: Any
    reason: str

    def __call__(self, function: Callable[..., Any], arrays: Any, numbers: Sequence[float]) -> Any:
        """Return ``function(*arrays)``, with :attr:`numbers` set to these."""


class Lane(Protocol):
    """A stream for copies to a device while it computes; `work` is what is launched on the ordinary stream."""

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return page-locked host memory, as a NumPy array."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return an array on the device."""

    def event(self) -> Any:
        """Return an event to wait for; until it is marked, waiting for it returns at once."""

    def send(self, host: Any, array: Any) -> None:
        """Copy page-locked memory to an array, both contiguous."""

    def marks(self, event: Any) -> None:
        """Mark the event: it is done when all copies so far are."""

    def waits(self, event: Any) -> None:
        """Let further copies wait for an event."""

    def work_marks(self, event: Any) -> None:
        """Mark the event: it is done when all work so far is."""

    def work_waits(self, event: Any) -> None:
        """Let further work wait for an event."""

    def host_waits(self, event: Any) -> None:
        """Wait for an event on the host."""

    def finish(self) -> None:
        """Wait for all copies on the host."""


def optional(kernels: Any, name: str) -> Any:
    """Return a kernel that a set may leave out; None if it does.

    Examples
    --------
    >>> optional(kernels_for("host"), "Recorder") is None
    True
    """
    assert name in OPTIONAL, name
    return getattr(kernels, name, None)


def kernels_for(family: str) -> ModuleType:
    """Return the kernels of a family, as :attr:`dense_xp.backend.Backend.kernels` names it.

    Examples
    --------
    >>> kernels_for("host") is host_kernels()
    True
    """
    return host_kernels() if family == "host" else importlib.import_module(f"dense_xp.kernels.{family}")


def lane_for(family: str, device: object) -> Lane | None:
    """Return the stream that copies host data to a device while it computes; None where there is nothing to gain.

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
        lane: Lane = importlib.import_module(f"dense_xp.kernels.{family}_lane").Lane(device)
        return lane
    return None


def reductions_for(family: str) -> dict[str, Any]:
    """Return the reductions that add up arrays of several processes on the devices, by name, the best first.

    Parameters
    ----------
    family : str
        As in :func:`kernels_for`.

    Examples
    --------
    >>> reductions_for("host")
    {}
    """
    if family not in ("cupy", "torch"):
        return {}
    ways: dict[str, Any] = importlib.import_module(f"dense_xp.kernels.{family}_reduction").WAYS
    return ways


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
    told_not_to = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")  # then NumPy's are faster
    if importlib.util.find_spec("numba") is not None and not told_not_to:
        try:
            return importlib.import_module("dense_xp.kernels.numba")
        except ImportError:  # a numba that does not fit this NumPy; everything works without it
            pass
    return importlib.import_module("dense_xp.kernels.numpy")
