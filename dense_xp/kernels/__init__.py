"""The hot loops of a training step, written again to work in memory that the step owns.

The specification of each is the pure function of the layer, loss or optimizer that it stands for; the tests
hold it against that within the rounding-error bound. A kernel writes into the arrays that it was given and
knows neither layers nor models. :mod:`dense_xp.kernels.numpy` needs NumPy alone;
:mod:`dense_xp.kernels.numba` replaces the loops that gain by being compiled.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType


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
