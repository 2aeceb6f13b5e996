"""Where random numbers come from."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Rng: TypeAlias = Any
"""A ``numpy.random.Generator``, or the module ``numpy.random`` itself: NumPy's global state."""


def as_rng(rng: Any) -> Rng:
    """Turn a seed, a Generator or None into a source of random numbers on the host.

    Parameters
    ----------
    rng : None, int, numpy.random.Generator or numpy.random.RandomState
        None is NumPy's global state, which ``numpy.random.seed`` controls.

    Raises
    ------
    TypeError
        If it is anything else.

    Examples
    --------
    >>> bool(as_rng(0).uniform() == as_rng(0).uniform())
    True
    """
    if rng is None:
        return np.random
    if isinstance(rng, np.random.Generator | np.random.RandomState):
        return rng
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool):
        return np.random.default_rng(int(rng))
    raise TypeError(f"rng is a seed (int), a numpy.random.Generator or None, and not a {type(rng).__name__}")
