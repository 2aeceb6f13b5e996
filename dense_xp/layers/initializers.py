"""Initializers of weights. They draw on the host, so that a seed gives the same bits on every backend.

An initializer is a function ``f(shape, rng)`` that returns a NumPy array. `shape` is (n_in, n_out), and
`rng` a ``numpy.random.Generator`` or the module ``numpy.random``; only what both have is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from dense_xp.support.checks import Checked, Ranges, real
from dense_xp.support.registry import Registry

HostArray: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Zeros:
    """All zeros: the usual start of biases.

    Examples
    --------
    >>> Zeros()((1, 2), None)
    array([[0., 0.]])
    """

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Return the initial values."""
        return np.zeros(shape)


@dataclass(frozen=True)
class Constant(Checked):
    """The same value everywhere.

    Parameters
    ----------
    value : float
        That value.

    Examples
    --------
    >>> Constant(0.5)((1, 2), None)
    array([[0.5, 0.5]])
    """

    value: float
    ranges: ClassVar[Ranges] = {"value": "(-inf, inf)"}

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Return the initial values."""
        return np.full(shape, self.value)


@dataclass(frozen=True)
class RandomUniform(Checked):
    """Uniform between two limits.

    Parameters
    ----------
    low, high : float
        The limits; by default ±0.05.

    Examples
    --------
    >>> RandomUniform(0, 1)((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """

    low: float = -0.05
    high: float = 0.05

    ranges: ClassVar[Ranges] = {"low": "(-inf, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "high", real("high", self.high, f"[{self.low}, inf)"))

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        return np.asarray(rng.uniform(self.low, self.high, shape))


@dataclass(frozen=True)
class RandomNormal(Checked):
    """Normal, with a given mean and standard deviation.

    Parameters
    ----------
    mean : float, default 0.0
        The mean.
    std : float, default 0.05
        The standard deviation.

    Examples
    --------
    >>> RandomNormal()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """

    mean: float = 0.0
    std: float = 0.05
    ranges: ClassVar[Ranges] = {"mean": "(-inf, inf)", "std": "[0, inf)"}

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        return np.asarray(rng.normal(self.mean, self.std, shape))


class _FanRule:
    """Mean zero and a variance that depends on how many inputs and outputs there are."""

    def variance(self, n_in: int, n_out: int) -> float:
        raise NotImplementedError


class _Uniform(_FanRule):
    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        limit = math.sqrt(3.0 * self.variance(*_fans(shape)))  # U(-a, a) has the variance a²/3
        return np.asarray(rng.uniform(-limit, limit, shape))


class _Normal(_FanRule):
    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        return np.asarray(rng.normal(0.0, math.sqrt(self.variance(*_fans(shape))), shape))


class _Glorot(_FanRule):
    def variance(self, n_in: int, n_out: int) -> float:
        return 2.0 / (n_in + n_out)


class _He(_FanRule):
    def variance(self, n_in: int, n_out: int) -> float:
        return 2.0 / n_in


class _LeCun(_FanRule):
    def variance(self, n_in: int, n_out: int) -> float:
        return 1.0 / n_in


@dataclass(frozen=True)
class FanInUniform:
    """Uniform in ±1/√n_in: the default of :class:`Dense`, and of torch's linear layer.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient BackProp", 1998, sec. 4.6, gives the
       scale 1/√n_in as a standard deviation; as the limit of a uniform draw it gives a third of that variance.

    Examples
    --------
    >>> bool(abs(FanInUniform()((4, 100), np.random.default_rng(0))).max() <= 0.5)
    True
    """

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        limit = 1.0 / math.sqrt(_fans(shape)[0])
        return np.asarray(rng.uniform(-limit, limit, shape))


@dataclass(frozen=True)
class GlorotUniform(_Glorot, _Uniform):
    """Uniform with the variance 2/(n_in + n_out): for tanh and other odd activations.

    References
    ----------
    .. [1] X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural
       networks", AISTATS 2010, eq. 16, https://proceedings.mlr.press/v9/glorot10a.html

    Examples
    --------
    >>> GlorotUniform()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class GlorotNormal(_Glorot, _Normal):
    """Normal with the variance 2/(n_in + n_out); see :class:`GlorotUniform`.

    Examples
    --------
    >>> GlorotNormal()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class HeUniform(_He, _Uniform):
    """Uniform with the variance 2/n_in: for ReLU and its kin.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10,
       https://arxiv.org/abs/1502.01852

    Examples
    --------
    >>> HeUniform()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class HeNormal(_He, _Normal):
    """Normal with the variance 2/n_in; see :class:`HeUniform`.

    Examples
    --------
    >>> HeNormal()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class LeCunUniform(_LeCun, _Uniform):
    """Uniform with the variance 1/n_in.

    References
    ----------
    .. [1] Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, "Efficient BackProp", in *Neural Networks:
       Tricks of the Trade*, Springer 1998, eq. 16.

    Examples
    --------
    >>> LeCunUniform()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class LeCunNormal(_LeCun, _Normal):
    """Normal with the variance 1/n_in; see :class:`LeCunUniform`.

    Examples
    --------
    >>> LeCunNormal()((2, 3), np.random.default_rng(0)).shape
    (2, 3)
    """


@dataclass(frozen=True)
class Orthogonal(Checked):
    """A random matrix with orthonormal rows or columns, whichever are fewer, times a gain.

    It is the Q of the QR factorization of a normal matrix, its columns' signs fixed by R's diagonal, which
    makes the draw uniform over all such matrices.

    Parameters
    ----------
    gain : float, default 1.0
        The length of those rows or columns.

    References
    ----------
    .. [1] A. Saxe, J. McClelland and S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in
       deep linear neural networks", ICLR 2014, https://arxiv.org/abs/1312.6120
    .. [2] F. Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the
       AMS 54 (2007), https://arxiv.org/abs/math-ph/0609050

    Examples
    --------
    >>> W = Orthogonal()((5, 2), np.random.default_rng(0))
    >>> bool(np.allclose(W.T @ W, np.eye(2)))
    True
    """

    gain: float = 1.0
    ranges: ClassVar[Ranges] = {"gain": "(-inf, inf)"}

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        n_in, n_out = shape
        Q, R = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
        Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
        return np.asarray(self.gain * (Q if n_in >= n_out else Q.T))


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    n_in, n_out = shape
    return n_in, n_out


Initializer: TypeAlias = Callable[[tuple[int, int], Any], Any]


@dataclass(frozen=True)
class EachMember(Checked):
    """Weights of an ensemble whose members see the same input: the columns of each member are drawn separately.

    Parameters
    ----------
    initializer : str or callable
        Draws the columns of one member.
    n_members : int
        Number of members.

    Examples
    --------
    >>> EachMember("zeros", 5)((2, 15), None).shape
    (2, 15)
    """

    initializer: Any
    n_members: int
    ranges: ClassVar[Ranges] = {"n_members": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "initializer", get_initializer(self.initializer))

    def __call__(self, shape: tuple[int, ...], rng: Any) -> HostArray:
        """Draw the initial values."""
        n_in, n_out = shape
        if n_out % self.n_members:
            raise ValueError(f"{n_out} columns cannot be shared out to {self.n_members} members")
        own = (n_in, n_out // self.n_members)
        return np.concatenate([self.initializer(own, rng) for _ in range(self.n_members)], axis=1)


INITIALIZERS: Registry[Initializer] = Registry(
    "initializer",
    {
        "zeros": Zeros,
        "constant": Constant,
        "random_uniform": RandomUniform,
        "random_normal": RandomNormal,
        "fan_in_uniform": FanInUniform,
        "glorot_uniform": GlorotUniform,
        "glorot_normal": GlorotNormal,
        "he_uniform": HeUniform,
        "he_normal": HeNormal,
        "lecun_uniform": LeCunUniform,
        "lecun_normal": LeCunNormal,
        "orthogonal": Orthogonal,
        "each_member": EachMember,
    },
    "a function f(shape, rng)",
    callable,
)


def get_initializer(spec: str | Mapping[str, Any] | Initializer) -> Initializer:
    """Return an initializer from its name, from what :func:`initializer_config` wrote, or as it is.

    Raises
    ------
    ValueError, TypeError
        If the name is unknown, or it is neither a name nor a function.

    Examples
    --------
    >>> get_initializer("he_normal")
    HeNormal()
    """
    if spec == "constant":
        raise ValueError("a constant needs its value: pass Constant(value)")
    return INITIALIZERS.made(spec)


def initializer_config(initializer: Initializer) -> Any:
    """Return an initializer as plain values: its name, with its arguments if they are not the defaults.

    A function of the user's own has no such form, and is returned as it is.

    Examples
    --------
    >>> initializer_config(HeNormal()), initializer_config(Orthogonal(2.0))
    ('he_normal', {'name': 'orthogonal', 'gain': 2.0})
    """
    return INITIALIZERS.written(initializer)
