"""Dropout: in training, some of the numbers are left out at random."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.layers.layer import Layer
from dense_xp.support.checks import real
from dense_xp.support.seeds import Rng, uniform_at_least
from dense_xp.support.trees import Params


class Dropout(Layer):
    r"""Set each number to zero with probability `rate` in training, and scale the others by 1/(1 - rate).

    The scale keeps the expected value, so nothing remains to be done outside of training. Which numbers are
    left out is drawn on the host, alike on every backend.

    Parameters
    ----------
    rate : float
        The share that is dropped: 0 ≤ rate < 1.
    **kwargs
        See :class:`Layer`.

    Raises
    ------
    ValueError
        If the rate is out of range.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a simple
       way to prevent neural networks from overfitting", JMLR 15 (2014), sec. 10 (the scale in training).

    Examples
    --------
    >>> layer = Dropout(0.5, input_shape=(6,), rng=1)
    >>> layer.initialize()
    >>> layer.forward_pass([[1, 1, 1, 1, 1, 1]])
    array([[2., 2., 0., 2., 0., 0.]], dtype=float32)
    >>> layer.forward_pass([[1, 1, 1, 1, 1, 1]], training=False)
    array([[1., 1., 1., 1., 1., 1.]], dtype=float32)
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = real("rate", rate, "[0, 1)")

    def draw_noise(self, rng: Rng, batch_shape: tuple[int, ...]) -> Any:
        """Draw which numbers are kept, as booleans on the host."""
        return uniform_at_least(rng, self.rate, batch_shape) if self.rate else None

    def forward(self, params: Params, X: Array, *, training: bool = False, noise: Any = None) -> tuple[Array, Any]:
        """Return X with some numbers left out, and which were kept; see :meth:`Layer.forward`."""
        if not training or not self.rate:
            return X, None
        if noise is None:
            raise ValueError(
                f"{self.layer_name()} needs its random numbers in training: pass "
                "noise=layer.draw_noise(rng, X.shape), placed on the device"
            )
        return self._kept(X, noise), noise

    def backward(self, params: Params, cache: Any, grad_Y: Array) -> tuple[Array, Params]:
        """Return the gradient with the same numbers left out; see :meth:`Layer.backward`."""
        return (grad_Y if cache is None else self._kept(grad_Y, cache)), {}

    def _kept(self, X: Array, keep: Array) -> Array:
        return array_namespace(X).where(keep, X * (1.0 / (1.0 - self.rate)), 0.0)

    def get_config(self) -> dict[str, Any]:
        """Return what ``from_config`` needs to make the same layer."""
        return {"rate": self.rate, **super().get_config()}
