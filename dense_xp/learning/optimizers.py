"""Optimizers: how one parameter moves, given its gradient and what was remembered of earlier ones.

Each has two halves. ``init(param) -> state`` and ``step(param, grad, state) -> (param, state)`` are pure and
write into no array that they were given; ``update(weights, grad) -> weights`` keeps the state itself, for one
parameter. Parameters of 16 bits are stepped in float32 and come back in their own dtype; their state holds the
float32 value, ``"master"``, so that steps smaller than a digit of theirs add up [2]_.

Weight decay is decoupled everywhere: the parameter shrinks by learning_rate · weight_decay of itself, and
the gradient stays as it is [1]_.

References
----------
.. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019,
   https://arxiv.org/abs/1711.05101
.. [2] P. Micikevicius et al., "Mixed precision training", ICLR 2018, sec. 3.1, https://arxiv.org/abs/1710.03740
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from array_api_compat import array_namespace, is_array_api_obj

from dense_xp.backend import Array
from dense_xp.learning.schedules import Schedule, rate_at, scaled
from dense_xp.learning.special import clipped, sign
from dense_xp.support.checks import real_fields
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.registry import Registry
from dense_xp.support.trees import Params, flatten, mapped

State = dict[str, Array]


@dataclass
class Optimizer:
    """Base class: a subclass writes :meth:`~Optimizer.init_state` and :meth:`~Optimizer.direction`.

    Parameters
    ----------
    learning_rate : float or Schedule
        How far to go along the direction.
    weight_decay : float, default 0.0
        By what share, times the learning rate, a parameter shrinks at each step.
    clip_norm : float, optional
        Gradients whose Euclidean norm, over all parameters together, is above this are scaled down to it.
    clip_value : float, optional
        Entries of a gradient are limited to ± this, before the norm is taken.
    """

    learning_rate: float | Schedule = 0.01
    weight_decay: float = field(default=0.0, kw_only=True)
    clip_norm: float | None = field(default=None, kw_only=True)
    clip_value: float | None = field(default=None, kw_only=True)

    traceable: ClassVar[bool] = True
    """Whether :meth:`step` is a pure function of arrays, so that it may be compiled."""

    counts: ClassVar[tuple[str, ...]] = ()
    """Names in the state under which steps are counted: the same number for parameters that move together."""

    _kept: ClassVar[Any] = None  # the state of update, once it was called
    _steps: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if not isinstance(self.learning_rate, Schedule):
            real_fields(self, "[0, inf)", "learning_rate")
        real_fields(self, "[0, inf)", "weight_decay")
        limits = [name for name in ("clip_norm", "clip_value") if getattr(self, name) is not None]
        real_fields(self, "(0, inf)", *limits)

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
            What to remember.
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
            Empty for an optimizer that remembers nothing; of 16 bits, also their float32 ``"master"``.
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
        if "master" in state:  # where it no longer rounds to the parameter, that was assigned since
            current = in_dtype(state["master"], param.dtype) == param
            wide = array_namespace(param).where(current, state["master"], wide)
        direction, new = self.direction(wide, widened(grad), state)
        if self.weight_decay:
            wide = wide * (1.0 - rate * self.weight_decay)
        wide = wide - rate * direction
        return in_dtype(wide, param.dtype), {**new, "master": wide} if "master" in state else new

    def update(self, weights: Array, grad: Array) -> Array:
        """Move one parameter, and remember here what there is to remember.

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
        >>> SGD(0.5).scaled(0.1).learning_rate
        0.05
        """
        other = copy.copy(self)
        other.learning_rate = scaled(self.learning_rate, factor)
        return other

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
        squares = [xp.sum(xp.square(widened(grad))) for grad in leaves]
        norm = xp.sqrt(sum(squares[1:], squares[0]))
        scale = self.clip_norm / xp.maximum(norm, self.clip_norm)
        limited: dict[str, Any] = mapped(lambda grad: grad * in_dtype(scale, grad.dtype), grads)
        return limited


@dataclass
class SGD(Optimizer):
    r"""Stochastic gradient descent, with momentum if wanted.

    .. math:: v ← μ v + g, \qquad θ ← θ - η v \quad (\text{Nesterov: } θ - η (g + μ v))

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        The rate η.
    momentum : float, default 0.0
        The share μ of the last velocity that is kept: 0 ≤ μ < 1.
    nesterov : bool, default False
        Whether to look ahead; needs momentum.
    weight_decay, clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] I. Sutskever, J. Martens, G. Dahl and G. Hinton, "On the importance of initialization and
       momentum in deep learning", ICML 2013, https://proceedings.mlr.press/v28/sutskever13.html

    Examples
    --------
    >>> import numpy as np
    >>> SGD(0.1).update(np.asarray([1.0]), np.asarray([2.0]))
    array([0.8])
    """

    momentum: float = field(default=0.0, kw_only=True)
    nesterov: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_fields(self, "[0, 1)", "momentum")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True needs a momentum, for example momentum=0.9")

    def init_state(self, param: Array) -> State:
        """Return a velocity of zero if there is momentum."""
        return {"velocity": array_namespace(param).zeros_like(param)} if self.momentum else {}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the gradient, or the velocity."""
        if not self.momentum:
            return grad, state
        velocity = self.momentum * state["velocity"] + grad
        return (grad + self.momentum * velocity if self.nesterov else velocity), {"velocity": velocity}


@dataclass
class RMSprop(Optimizer):
    r"""Divide the gradient by a running root mean square of itself.

    .. math:: s ← ρ s + (1 - ρ) g^2, \qquad θ ← θ - η\,g / (\sqrt s + ε)

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        The rate η.
    rho : float, default 0.99
        The share of the old mean that is kept.
    momentum : float, default 0.0
        The share of the last direction that is added to the new one.
    epsilon : float, default 1e-8
        Added to the root.
    weight_decay, clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] T. Tieleman and G. Hinton, "Lecture 6.5: RMSprop", Coursera 2012. The place of ε is torch's.

    Examples
    --------
    >>> import numpy as np
    >>> RMSprop(0.1, rho=0.75).update(np.asarray([1.0]), np.asarray([2.0]))
    array([0.8])
    """

    learning_rate: float | Schedule = 0.001
    rho: float = field(default=0.99, kw_only=True)
    momentum: float = field(default=0.0, kw_only=True)
    epsilon: float = field(default=1e-8, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_fields(self, "[0, 1)", "rho", "momentum")
        real_fields(self, "[0, inf)", "epsilon")

    def init_state(self, param: Array) -> State:
        """Return a mean square of zero, and a velocity if there is momentum."""
        names = ("mean_square", "velocity") if self.momentum else ("mean_square",)
        return {name: array_namespace(param).zeros_like(param) for name in names}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the gradient over its root mean square."""
        xp = array_namespace(param)
        mean_square = self.rho * state["mean_square"] + (1.0 - self.rho) * xp.square(grad)
        scaled = grad / (xp.sqrt(mean_square) + self.epsilon)
        if not self.momentum:
            return scaled, {"mean_square": mean_square}
        velocity = self.momentum * state["velocity"] + scaled
        return velocity, {"mean_square": mean_square, "velocity": velocity}


@dataclass
class Adam(Optimizer):
    r"""Running means of the gradient and of its square, freed of their bias towards zero.

    .. math:: m ← β_1 m + (1 - β_1) g, \quad v ← β_2 v + (1 - β_2) g^2, \quad
              θ ← θ - η\,\hat m / (\sqrt{\hat v} + ε), \quad
              \hat m = m / (1 - β_1^t), \; \hat v = v / (1 - β_2^t)

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.001
        The rate η.
    beta_1, beta_2 : float, default 0.9 and 0.999
        The shares of the old means that are kept.
    epsilon : float, default 1e-8
        Added to the root.
    weight_decay, clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1,
       https://arxiv.org/abs/1412.6980

    Examples
    --------
    >>> import numpy as np
    >>> Adam(0.1).update(np.asarray([1.0]), np.asarray([2.0]))
    array([0.9])
    """

    learning_rate: float | Schedule = 0.001
    beta_1: float = field(default=0.9, kw_only=True)
    beta_2: float = field(default=0.999, kw_only=True)
    epsilon: float = field(default=1e-8, kw_only=True)

    counts: ClassVar[tuple[str, ...]] = ("steps",)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_fields(self, "[0, 1)", "beta_1", "beta_2")
        real_fields(self, "[0, inf)", "epsilon")

    def init_state(self, param: Array) -> State:
        """Return two means of zero and the number of steps, an array too, so that a step may be compiled."""
        xp = array_namespace(param)
        zeros = xp.zeros_like(param)
        return {"mean": zeros, "mean_square": zeros, "steps": xp.sum(zeros)}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the mean over the root mean square."""
        xp = array_namespace(param)
        steps = state["steps"] + 1.0
        mean = self.beta_1 * state["mean"] + (1.0 - self.beta_1) * grad
        mean_square = self.beta_2 * state["mean_square"] + (1.0 - self.beta_2) * xp.square(grad)
        root = xp.sqrt(mean_square / _one_minus_power(self.beta_2, steps))
        scaled = mean / ((root + self.epsilon) * _one_minus_power(self.beta_1, steps))
        return scaled, {"mean": mean, "mean_square": mean_square, "steps": steps}


def _one_minus_power(beta: float, steps: Array) -> Array:
    """Return 1 - βᵗ without the cancellation that costs float32 half its digits when β is close to 1."""
    if not beta:
        return 1.0
    return -array_namespace(steps).expm1(steps * math.log(beta))


@dataclass
class AdamW(Adam):
    """Adam with weight decay: :class:`Adam` under another default.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        See :class:`Adam`.
    weight_decay : float, default 0.01
        By what share, times the learning rate, a parameter shrinks at each step.
    clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2,
       https://arxiv.org/abs/1711.05101

    Examples
    --------
    >>> AdamW().weight_decay
    0.01
    """

    weight_decay: float = field(default=0.01, kw_only=True)


@dataclass
class Adagrad(Optimizer):
    r"""Divide the gradient by the root of the sum of its squares so far.

    .. math:: s ← s + g^2, \qquad θ ← θ - η\,g / (\sqrt s + ε)

    Parameters
    ----------
    learning_rate : float or Schedule, default 0.01
        The rate η.
    epsilon : float, default 1e-10
        Added to the root.
    weight_decay, clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] J. Duchi, E. Hazan and Y. Singer, "Adaptive subgradient methods for online learning and
       stochastic optimization", JMLR 12 (2011), pp. 2121–2159.

    Examples
    --------
    >>> import numpy as np
    >>> Adagrad(0.1).update(np.asarray([1.0]), np.asarray([2.0]))
    array([0.9])
    """

    epsilon: float = field(default=1e-10, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_fields(self, "[0, inf)", "epsilon")

    def init_state(self, param: Array) -> State:
        """Return a sum of zero."""
        return {"sum_of_squares": array_namespace(param).zeros_like(param)}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the gradient over the root of the sum."""
        xp = array_namespace(param)
        total = state["sum_of_squares"] + xp.square(grad)
        return grad / (xp.sqrt(total) + self.epsilon), {"sum_of_squares": total}


@dataclass
class Lion(Optimizer):
    r"""Follow the sign of a momentum.

    .. math:: θ ← θ - η\,\operatorname{sign}(β_1 m + (1 - β_1) g), \qquad m ← β_2 m + (1 - β_2) g

    Parameters
    ----------
    learning_rate : float or Schedule, default 1e-4
        The rate η: a tenth to a third of Adam's.
    beta_1, beta_2 : float, default 0.9 and 0.99
        The shares of the momentum in the direction and in the next momentum.
    weight_decay, clip_norm, clip_value
        See :class:`Optimizer`.

    References
    ----------
    .. [1] X. Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, algorithm 2,
       https://arxiv.org/abs/2302.06675

    Examples
    --------
    >>> import numpy as np
    >>> Lion(0.1).update(np.asarray([1.0]), np.asarray([2.0]))
    array([0.9])
    """

    learning_rate: float | Schedule = 1e-4
    beta_1: float = field(default=0.9, kw_only=True)
    beta_2: float = field(default=0.99, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        real_fields(self, "[0, 1)", "beta_1", "beta_2")

    def init_state(self, param: Array) -> State:
        """Return a momentum of zero."""
        return {"momentum": array_namespace(param).zeros_like(param)}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the sign of the momentum."""
        momentum = state["momentum"]
        direction = sign(self.beta_1 * momentum + (1.0 - self.beta_1) * grad)
        return direction, {"momentum": self.beta_2 * momentum + (1.0 - self.beta_2) * grad}


class ForeignOptimizer(Optimizer):
    """Any object with ``update(weights, grad) -> weights``; each parameter has a copy of it as its state.

    What the object does inside is its own affair, so a step with it is never compiled, and it is handed a
    copy of the weights, into which it may write.
    """

    traceable: ClassVar[bool] = False

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.optimizer = optimizer

    def init(self, param: Array) -> Any:
        """Return a copy of the object."""
        return copy.deepcopy(self.optimizer)

    def step(self, param: Array, grad: Array, state: Any, learning_rate: Any = None) -> tuple[Array, Any]:
        """Let the object move the parameter, and check what it returns."""
        xp = array_namespace(param)
        new = state.update(xp.asarray(param, copy=True), grad)
        name = f"{type(state).__name__}.update"
        if not is_array_api_obj(new) or array_namespace(new) is not xp:
            raise TypeError(f"{name} returned a {type(new).__name__}; it must return the new weights")
        if tuple(new.shape) != tuple(param.shape):
            raise ValueError(f"{name} returned weights of shape {tuple(new.shape)} for {tuple(param.shape)}")
        if not xp.isdtype(new.dtype, ("integral", "real floating")):
            raise TypeError(f"{name} returned weights of dtype {new.dtype}; they must be real numbers")
        return in_dtype(new, param.dtype), state

    def __repr__(self) -> str:
        return f"ForeignOptimizer({self.optimizer!r})"


OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "adamw": AdamW, "adagrad": Adagrad, "lion": Lion},
    "an object with update(weights, grad)",
    lambda spec: callable(getattr(spec, "update", None)) and not isinstance(spec, dict | set),
)


def as_optimizer(spec: Any) -> Optimizer | None:
    """Return an optimizer from its name, from any object with ``update``, or as it is; None stays None.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it cannot update weights.

    Examples
    --------
    >>> as_optimizer("sgd").learning_rate
    0.01
    """
    if spec is None:
        return None
    optimizer: Any = OPTIMIZERS.made(spec)
    return optimizer if isinstance(optimizer, Optimizer) else ForeignOptimizer(optimizer)


def apply_gradients(
    optimizer: Optimizer, params: Params, grads: Params, state: Params, learning_rate: Any
) -> tuple[Params, Params]:
    """Let the optimizer step each parameter that has a gradient; neither argument is changed.

    Returns
    -------
    params, state : dict
        With the new arrays; what had no gradient (frozen layers, buffers) is the same as before.
    """
    params, state = dict(params), dict(state)
    for key, grad in grads.items():
        step = apply_gradients if isinstance(grad, dict) else type(optimizer).step
        params[key], state[key] = step(optimizer, params[key], grad, state[key], learning_rate)
    return params, state
