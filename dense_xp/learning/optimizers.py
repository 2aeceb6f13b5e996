"""The optimizers, and their names.

Weight decay is decoupled everywhere: the parameter shrinks by learning_rate · weight_decay of itself, and
the gradient stays as it is [1]_.

References
----------
.. [1] I. Loshchilov and F. Hutter, "Decoupled weight decay regularization", ICLR 2019,
   https://arxiv.org/abs/1711.05101
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.foreign import ForeignOptimizer
from dense_xp.learning.optimizer import Optimizer, State
from dense_xp.learning.schedules import Schedule
from dense_xp.learning.special import sign
from dense_xp.support.checks import Ranges
from dense_xp.support.registry import Registry


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
    weight_decay, no_decay, clip_norm, clip_value
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

    ranges: ClassVar[Ranges] = {"momentum": "[0, 1)"}

    def __post_init__(self) -> None:
        super().__post_init__()
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
    weight_decay, no_decay, clip_norm, clip_value
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
    ranges: ClassVar[Ranges] = {"rho": "[0, 1)", "momentum": "[0, 1)", "epsilon": "[0, inf)"}

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
    r"""Running means of the gradient and of its square, corrected for their bias towards zero.

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
    weight_decay, no_decay, clip_norm, clip_value
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
    ranges: ClassVar[Ranges] = {"beta_1": "[0, 1)", "beta_2": "[0, 1)", "epsilon": "[0, inf)"}

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
    """Adam with weight decay: :class:`Adam` with another default.

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon
        See :class:`Adam`.
    weight_decay : float, default 0.01
        Each step shrinks a parameter by this share, times the learning rate.
    no_decay, clip_norm, clip_value
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
    initial_accumulator_value : float, default 0.0
        Where the sum s starts: above 0, the first steps are shorter.
    weight_decay, no_decay, clip_norm, clip_value
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
    initial_accumulator_value: float = field(default=0.0, kw_only=True)
    ranges: ClassVar[Ranges] = {"epsilon": "[0, inf)", "initial_accumulator_value": "[0, inf)"}

    def init_state(self, param: Array) -> State:
        """Return the sum before the first step."""
        return {"sum_of_squares": array_namespace(param).zeros_like(param) + self.initial_accumulator_value}

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
    weight_decay, no_decay, clip_norm, clip_value
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
    ranges: ClassVar[Ranges] = {"beta_1": "[0, 1)", "beta_2": "[0, 1)"}

    def init_state(self, param: Array) -> State:
        """Return a momentum of zero."""
        return {"momentum": array_namespace(param).zeros_like(param)}

    def direction(self, param: Array, grad: Array, state: State) -> tuple[Array, State]:
        """Return the sign of the momentum."""
        momentum = state["momentum"]
        direction = sign(self.beta_1 * momentum + (1.0 - self.beta_1) * grad)
        return direction, {"momentum": self.beta_2 * momentum + (1.0 - self.beta_2) * grad}


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
