"""Regularizers: penalties on weights that are added to the loss, and their gradients.

    L(θ) + Σ R(W)      ∂L/∂W + ∂R/∂W

A layer takes one for any of its parameters: ``Dense(10).regularized(W=L2(1e-4))``. It gets at least 32 bits. This is
not the weight decay of the optimizers, which changes weights but not the loss; with plain SGD the two agree if the
decay is twice the factor of L2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.learning.special import sign
from dense_xp.support.checks import Checked, Ranges
from dense_xp.support.products import matmul
from dense_xp.support.registry import Registry


class Regularizer(Checked):
    """Base class: a subclass writes :meth:`~Regularizer.penalty` and :meth:`~Regularizer.gradient`, both pure."""

    def penalty(self, W: Array) -> Array:
        """Return what is added to the loss.

        Parameters
        ----------
        W : array
            The parameter, of at least 32 bits.

        Returns
        -------
        array, shape ()
            The penalty, in its dtype.
        """
        raise NotImplementedError(f"{type(self).__name__} has no penalty")

    def gradient(self, W: Array) -> Array:
        """Return the gradient of the penalty.

        Parameters
        ----------
        W : array
            The parameter, of at least 32 bits.

        Returns
        -------
        array
            Of the shape of W.
        """
        raise NotImplementedError(f"{type(self).__name__} has no gradient")


@dataclass(frozen=True)
class _Weighed(Regularizer):
    factor: float = 0.01
    ranges: ClassVar[Ranges] = {"factor": "[0, inf)"}


@dataclass(frozen=True)
class L1(_Weighed):
    r"""Sum of the absolute values, :math:`λ \sum |w|`: it draws weights that the loss does not need to zero.

    The derivative at 0 is taken as 0.

    Parameters
    ----------
    factor : float, default 0.01
        The factor λ, at least 0.

    References
    ----------
    .. [1] R. Tibshirani, "Regression shrinkage and selection via the lasso", J. R. Stat. Soc. B 58 (1996).

    Examples
    --------
    >>> import numpy as np
    >>> W = np.asarray([[1.0, -2.0]])
    >>> float(L1(0.5).penalty(W)), L1(0.5).gradient(W)
    (1.5, array([[ 0.5, -0.5]]))
    """

    def penalty(self, W: Array) -> Array:
        """Return λ Σ|w|."""
        xp = array_namespace(W)
        return self.factor * xp.sum(xp.abs(W))

    def gradient(self, W: Array) -> Array:
        """Return λ times the sign."""
        return self.factor * sign(W)


@dataclass(frozen=True)
class L2(_Weighed):
    r"""Sum of the squares, :math:`λ \sum w^2`, without a factor ½.

    Parameters
    ----------
    factor : float, default 0.01
        The factor λ, at least 0.

    References
    ----------
    .. [1] A. Hoerl and R. Kennard, "Ridge regression: biased estimation for nonorthogonal problems",
       Technometrics 12 (1970).

    Examples
    --------
    >>> import numpy as np
    >>> W = np.asarray([[1.0, -2.0]])
    >>> float(L2(0.5).penalty(W)), L2(0.5).gradient(W)
    (2.5, array([[ 1., -2.]]))
    """

    def penalty(self, W: Array) -> Array:
        """Return λ Σw²."""
        xp = array_namespace(W)
        return self.factor * xp.sum(xp.square(W))

    def gradient(self, W: Array) -> Array:
        """Return 2λw."""
        return (2.0 * self.factor) * W


@dataclass(frozen=True)
class L1L2(Regularizer):
    """Both at once, :class:`L1` and :class:`L2`: the elastic net.

    Parameters
    ----------
    l1, l2 : float, default 0.01
        Their factors.

    Raises
    ------
    ValueError
        If one is negative or not a number.

    References
    ----------
    .. [1] H. Zou and T. Hastie, "Regularization and variable selection via the elastic net",
       J. R. Stat. Soc. B 67 (2005).

    Examples
    --------
    >>> import numpy as np
    >>> float(L1L2(0.5, 0.25).penalty(np.asarray([[1.0, -2.0]])))
    2.75
    """

    l1: float = 0.01
    l2: float = 0.01
    ranges: ClassVar[Ranges] = {"l1": "[0, inf)", "l2": "[0, inf)"}

    def penalty(self, W: Array) -> Array:
        """Return the sum of both."""
        return L1(self.l1).penalty(W) + L2(self.l2).penalty(W)

    def gradient(self, W: Array) -> Array:
        """Return the sum of both."""
        return L1(self.l1).gradient(W) + L2(self.l2).gradient(W)


@dataclass(frozen=True)
class SoftOrthogonality(_Weighed):
    r"""How far the columns of W, or its rows if those are fewer, are from orthonormal: :math:`λ \|W^T W - I\|_F^2`.

    Parameters
    ----------
    factor : float, default 0.01
        The factor λ, at least 0.

    References
    ----------
    .. [1] N. Bansal, X. Chen and Z. Wang, "Can we gain more from orthogonality regularizations in training
       deep CNNs?", NeurIPS 2018, https://arxiv.org/abs/1810.09102

    Examples
    --------
    >>> import numpy as np
    >>> float(SoftOrthogonality(0.5).penalty(np.asarray([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])))
    1.0
    """

    def penalty(self, W: Array) -> Array:
        """Return λ‖WᵀW - I‖², or λ‖WWᵀ - I‖²."""
        xp = array_namespace(W)
        return self.factor * xp.sum(xp.square(_excess(W)))

    def gradient(self, W: Array) -> Array:
        """Return 4λW(WᵀW - I), or 4λ(WWᵀ - I)W."""
        excess = _excess(W)
        return (4.0 * self.factor) * (matmul(W, excess) if _is_tall(W) else matmul(excess, W))


def _is_tall(W: Array) -> bool:
    return bool(W.shape[0] >= W.shape[1])


def _excess(W: Array) -> Array:
    gram = matmul(W.T, W) if _is_tall(W) else matmul(W, W.T)
    return gram - array_namespace(W).eye(gram.shape[0], dtype=W.dtype, device=device(W))


REGULARIZERS: Registry[Regularizer] = Registry(
    "regularizer",
    {"l1": L1, "l2": L2, "l1l2": L1L2, "soft_orthogonality": SoftOrthogonality},
    "an object of a subclass of Regularizer",
    lambda spec: isinstance(spec, Regularizer),
)
