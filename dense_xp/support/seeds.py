"""Where random numbers come from."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

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


class Draw(NamedTuple):
    """Where uniform numbers are at least `bound`, still to be drawn, on a device, from a generator's state, `words`."""

    bound: float
    shape: tuple[int, ...]
    words: tuple[int, int, int, int]


def uniform_at_least(rng: Rng, bound: float, shape: tuple[int, ...]) -> Any:
    """Draw uniform numbers in [0, 1), and return where they are at least `bound`.

    Examples
    --------
    >>> uniform_at_least(np.random.default_rng(0), 0.5, (4,))
    array([ True, False, False, False])
    """
    # only a SkippingGenerator has a method for that
    return rng.at_least(bound, shape) if hasattr(rng, "at_least") else rng.uniform(size=shape) >= bound


_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
_RANGES = {"pos": 624, "buffer_pos": 4, "has_uint32": 1, "uinteger": 2**32 - 1, "state": 2**128 - 1, "inc": 2**128 - 1}
"""The largest values of the numbers in a state. NumPy accepts larger ones, and then reads out of bounds."""


def random_state(rng: Any) -> Any:
    """Return the state of a Generator as plain values; None for NumPy's global state and for a legacy one.

    Examples
    --------
    >>> random_state(np.random.default_rng(0))["bit_generator"]
    'PCG64'
    """
    if not isinstance(rng, np.random.Generator) or type(rng.bit_generator).__name__ not in _GENERATORS:
        return None

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    return plain(rng.bit_generator.state)


def restored(state: Any) -> np.random.Generator | None:
    """Return a Generator in a state that :func:`random_state` returned.

    Raises
    ------
    ValueError
        If it is not a valid state of such a generator.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> bool(restored(random_state(rng)).uniform() == rng.uniform())
    True
    """
    if state is None:
        return None
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name not in _GENERATORS:
        raise ValueError(f"the random state is that of {name!r:.40}")
    generator = getattr(np.random, name)(0)
    generator.state = _like(generator.state, state, "random state")
    return np.random.Generator(generator)


def _like(known: Any, given: Any, what: str) -> Any:
    """Return plain values as a state of the same form as `known`, or raise."""
    if isinstance(known, dict):
        if not isinstance(given, dict) or set(given) != set(known):
            raise ValueError(f"the {what} has not the entries {sorted(known)}")
        return {key: _like(value, given[key], key) for key, value in known.items()}
    if isinstance(known, str):
        return known
    largest = np.iinfo(known.dtype).max if isinstance(known, np.ndarray) else _RANGES[what]
    numbers = given if isinstance(known, np.ndarray) else [given]
    if not isinstance(numbers, list) or len(numbers) != np.size(known):
        raise ValueError(f"{what} of the random state does not hold {np.size(known)} numbers")
    for number in numbers:
        if type(number) is not int or not 0 <= number <= largest:
            raise ValueError(f"{what} of the random state is {number!r:.40}, and lies between 0 and {largest}")
    return np.asarray(numbers, known.dtype) if isinstance(known, np.ndarray) else given
