"""The base class of optimizers: how one parameter moves, given its gradient and the state of earlier steps.

Each has two halves. ``init(param) -> state`` and ``step(param, grad, state) -> (param, state)`` are pure and
write into no array that they were given; ``update(weights, grad) -> weights`` keeps the state itself, for one
parameter. Parameters of 16 bits are stepped in float32 and come back in their own dtype; their state holds the
float32 value, ``"master"``, so that steps below the precision of 16 bits add up [1]_.

References
----------
.. [1] P. Micikevicius et al., "Mixed precision training", ICLR 2018, sec. 3.1, https://arxiv.org/abs/1710.03740
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.schedules import Schedule, rate_at, scaled
from dense_xp.learning.special import clipped, euclidean
from dense_xp.support.checks import Checked, Ranges, names, real
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.trees import Params, flatten, mapped

State = dict[str, Array]


@dataclass
class Optimizer(Checked):
    """Base class: a subclass writes :meth:`~Optimizer.init_state` and :meth:`~Optimizer.direction`.

    Parameters
    ----------
    learning_rate : float or Schedule
        How far to go along the direction.
    weight_decay : float, default 0.0
        Each step shrinks a parameter by this share, times the learning rate.
    no_decay : sequence of str, default ()
        Names of parameters that do not shrink, whatever their layer: ``("w0", "gamma", "beta")`` are biases and norms.
    clip_norm : float, optional
        Gradients whose Euclidean norm, over all parameters together, is above this are scaled down to it.
    clip_value : float, optional
        Entries of a gradient are limited to ± this, before the norm is taken.
    """

    learning_rate: float | Schedule = 0.01
    weight_decay: float = field(default=0.0, kw_only=True)
    no_decay: Sequence[str] = field(default=(), kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)

    ranges: ClassVar[Ranges] = {"weight_decay": "[0, inf)", "clip_norm": "(0, inf)", "clip_value": "(0, inf)"}

    traceable: ClassVar[bool] = True
    """Whether :meth:`step` is a pure function of arrays, so that it may be compiled."""

    counts: ClassVar[tuple[str, ...]] = ()
    """Names in the state under which steps are counted: the same number for parameters that move together."""

    _kept: ClassVar[Any] = None  # the state of update, once it was called
    _steps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, Schedule):
            self.learning_rate = real("learning_rate", self.learning_rate, "[0, inf)")
        super().__post_init__()
        self.no_decay = names("no_decay", self.no_decay)

    def for_parameter(self, name: str) -> Optimizer:
        """Return the optimizer for parameters of this name: itself, or a copy without decay if they do not shrink.

        Parameters
        ----------
        name : str
            Without the name of its layer: ``"w0"``.
        """
        return self._with(weight_decay=0.0) if name in self.no_decay else self

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        vars(other).update(changes)
        return other

    def init_state(self, param: Array) -> State:
        """Return the state before the first step.

        Parameters
        ----------
        param : array
            The parameter, with at least 32 bits.
        """
        return {}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return what is subtracted, times the learning rate, and the new state: a pure function.

        Parameters
        ----------
        param, grad : array
            The parameter and its gradient, with at least 32 bits.
        state : dict
            From :meth:`init_state` or the step before.

        Returns
        -------
        direction : array
            Of the parameter's shape.
        state : dict
            For the next step.
        """
        raise NotImplementedError(f"{type(self).__name__} has no direction")

    def init(self, param: Array) -> Any:
        """Return the state of one parameter before its first step.

        Parameters
        ----------
        param : array
            The parameter.

        Returns
        -------
        dict of str to array
            Empty for an optimizer without state; a parameter of 16 bits adds its float32 ``"master"``.
        """
        wide = widened(param)
        state = self.init_state(wide)
        return state if wide is param else {**state, "master": wide}

    def step(self, param: Array, grad: Array, state: Any, learning_rate: Any = None) -> tuple[Array, Any]:
        """Move one parameter: a pure function.

        Parameters
        ----------
        param, grad : array
            The parameter and its gradient, clipped if that is wanted.
        state : dict
            From :meth:`init` or the step before.
        learning_rate : float, optional
            The rate of this step; by default that of the first.

        Returns
        -------
        param : array
            The moved parameter, in its own dtype.
        state : dict
            What to remember.
        """
        rate = self.learning_rate_at(0) if learning_rate is None else learning_rate
        wide = widened(param)
        if "master" in state:  # if it no longer rounds to the parameter, a new value was assigned
            current = in_dtype(state["master"], param.dtype) == param
            wide = array_namespace(param).where(current, state["master"], wide)
        direction, new = self.direction(wide, widened(grad), state)
        if self.weight_decay:
            wide = wide * (1.0 - rate * self.weight_decay)
        wide = wide - rate * direction
        return in_dtype(wide, param.dtype), {**new, "master": wide} if "master" in state else new

    @np.errstate(all="ignore")  # small numbers squared underflow
    def update(self, weights: Array, grad: Array) -> Array:
        """Move one parameter, and keep its state in this object.

        One optimizer serves one parameter in this way; clipping then sees its gradient alone.

        Parameters
        ----------
        weights, grad : array
            The parameter and its gradient.

        Returns
        -------
        array
            The moved parameter; `weights` is not written to.
        """
        state = self.init(weights) if self._kept is None else self._kept
        grad = self.clip({"weights": grad})["weights"]
        weights, state = self.step(weights, grad, state, self.learning_rate_at(self._steps))
        vars(self).update(_kept=state, _steps=self._steps + 1)
        return weights

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step : int
            Counted from 0.
        """
        return rate_at(self.learning_rate, step)

    def scaled(self, factor: float) -> Self:
        """Return a copy whose learning rate, or schedule, is multiplied by a factor.

        Parameters
        ----------
        factor : float
            Not negative.

        Examples
        --------
        >>> from dense_xp import SGD
        >>> SGD(0.5).scaled(0.1).learning_rate
        0.05
        """
        return self._with(learning_rate=scaled(self.learning_rate, factor))

    def resumed(self, state: Any, steps: int) -> Any:
        """Return a copy whose :meth:`update` continues from a state of one parameter.

        Parameters
        ----------
        state : dict
            From :meth:`init` or :meth:`step`.
        steps : int
            How many steps there were.
        """
        return self._with(_kept=state, _steps=steps)

    def clip(self, grads: dict[str, Any]) -> dict[str, Any]:
        """Limit gradients, each entry first and then their common norm.

        Parameters
        ----------
        grads : dict
            Gradients by name, nested as layers are.

        Returns
        -------
        dict
            Of the same form; the same object if nothing is to be limited.

        References
        ----------
        .. [1] R. Pascanu, T. Mikolov and Y. Bengio, "On the difficulty of training recurrent neural
           networks", ICML 2013, sec. 3.2, https://arxiv.org/abs/1211.5063
        """
        if self.clip_value is not None:
            limit = self.clip_value
            grads = mapped(lambda grad: clipped(grad, -limit, limit), grads)
        leaves = [] if self.clip_norm is None else list(flatten(grads).values())
        if self.clip_norm is None or not leaves:
            return grads
        xp = array_namespace(leaves[0])
        norm = euclidean(*map(widened, leaves))
        scale = self.clip_norm / xp.maximum(norm, self.clip_norm)
        limited: dict[str, Any] = mapped(lambda grad: grad * in_dtype(scale, grad.dtype), grads)
        return limited


def apply_gradients(
    optimizer: Optimizer, params: Params, grads: Params, state: Params, learning_rate: Any
) -> tuple[Params, Params]:
    """Let the optimizer step each parameter that has a gradient; no argument is changed.

    Returns
    -------
    params, state : dict
        With the new arrays; what had no gradient (frozen layers, buffers) is the same as before.
    """
    params, state = dict(params), dict(state)
    for key, grad in grads.items():
        nested = isinstance(grad, dict)
        step = functools.partial(apply_gradients, optimizer) if nested else optimizer.for_parameter(key).step
        params[key], state[key] = step(params[key], grad, state[key], learning_rate)
    return params, state
