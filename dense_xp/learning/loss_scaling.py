"""Loss scaling: float16 gradients are multiplied by a power of two, so that small ones are not lost.

float16 has no numbers between 0 and 6·10⁻⁸, and ordinary gradients reach below that. A power of two in the gradient of
the loss scales all others without rounding errors; before use they are divided by it again, in float32. The factor
adapts [1]_: if a gradient overflows, the step is skipped and the factor halved; after many steps in a row without
overflow, it is doubled. It is kept in arrays of the step's state, so that the host does not wait for the device.
bfloat16 has the exponents of float32 and needs none of this.

References
----------
.. [1] P. Micikevicius et al., "Mixed precision training", ICLR 2018, sec. 3.2, https://arxiv.org/abs/1710.03740
"""

from __future__ import annotations

import functools
from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array, Backend
from dense_xp.learning.special import clipped
from dense_xp.support.dtypes import widened
from dense_xp.support.trees import mapped

INITIAL = (2.0**15, 0.0)
"""The initial factor, and the number of steps without overflow since it last changed."""

LARGEST = 2.0**24
PATIENCE = 2000
"""After how many steps without overflow the factor is doubled."""

State = dict[str, Array]


def place(backend: Backend, values: tuple[float, float]) -> State:
    """Return the state for a factor and a number of steps, on the device.

    Examples
    --------
    >>> from dense_xp import get_backend
    >>> place(get_backend("numpy"), INITIAL)["factor"]
    array(32768., dtype=float32)
    """
    return {name: backend.asarray(x, "float32") for name, x in zip(("factor", "steps"), values, strict=True)}


def read(backend: Backend, state: State) -> tuple[float, float]:
    """Undo :func:`place`: copy the state to the host.

    Examples
    --------
    >>> from dense_xp import get_backend
    >>> read(get_backend("numpy"), place(get_backend("numpy"), INITIAL))
    (32768.0, 0.0)
    """
    factor, steps = backend.scalars([state["factor"], state["steps"]]).tolist()
    return factor, steps


def unscaled(grads: Any, state: State) -> tuple[Any, Array]:
    """Divide gradients by the factor, in float32.

    Parameters
    ----------
    grads : dict
        Gradients by name, nested as layers are.
    state : dict
        From :func:`place` or :func:`advanced`.

    Returns
    -------
    grads : dict
        Of the same form, with at least 32 bits.
    finite : array of bool, shape ()
        Whether all of them are finite.
    """
    checks: list[Array] = []

    def divided(grad: Array) -> Array:
        xp = array_namespace(grad)
        checks.append(xp.all(xp.isfinite(grad)))
        return widened(grad) * (1.0 / state["factor"])  # exact: the factor is a power of two

    grads = mapped(divided, grads)
    # not stacked: to stack more than eight arrays, CuPy copies their addresses to the device
    both = array_namespace(state["factor"]).logical_and
    return grads, functools.reduce(both, checks, state["factor"] > 0.0)


def advanced(state: State, finite: Array) -> State:
    """Return the state after a step whose gradients were finite, or were not.

    Examples
    --------
    >>> import numpy as np
    >>> state = {"factor": np.asarray(8.0), "steps": np.asarray(5.0)}
    >>> [float(x) for x in advanced(state, np.asarray(False)).values()]
    [4.0, 0.0]
    """
    xp = array_namespace(state["factor"])
    steps = xp.where(finite, state["steps"] + 1.0, 0.0 * state["steps"])
    full = steps >= PATIENCE
    factor = xp.where(finite, state["factor"], 0.5 * state["factor"])
    factor = xp.where(full, 2.0 * factor, factor)
    return {"factor": clipped(factor, 1.0, LARGEST), "steps": xp.where(full, 0.0 * steps, steps)}


def chosen(condition: Array, new: Any, old: Any) -> Any:
    """Return the arrays of `new` where the condition holds, and those of `old` elsewhere; both are nested dicts.

    Examples
    --------
    >>> import numpy as np
    >>> chosen(np.asarray(False), {"W": np.asarray(1.0)}, {"W": np.asarray(2.0)})
    {'W': array(2.)}
    """
    return mapped(lambda a, b: a if a is b else array_namespace(a).where(condition, a, b), new, old)
