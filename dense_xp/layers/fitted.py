"""The base class of first layers that learn their numbers from the training rows, and how these are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from dense_xp.backend import to_numpy
from dense_xp.layers.layer import Layer


class FromData(Layer):
    """A layer with numbers for each feature; subclasses learn them in ``from_data``."""

    does: ClassVar[str]
    """What the layer does with features, for error messages."""

    def __init__(self, n_features: int, **kwargs: Any) -> None:
        self.n_features = n_features
        shape = kwargs.pop("input_shape", None) or (n_features,)
        super().__init__(input_shape=shape, **kwargs)

    def set_input_shape(self, shape: tuple[int, ...]) -> None:
        """Set the shape of one sample; ValueError unless it has as many features as the layer has numbers for."""
        before = self.input_shape
        super().set_input_shape(shape)
        if self.input_shape != (self.n_features,):
            given, self.input_shape = self.input_shape, before
            raise ValueError(
                f"{self.layer_name()} {self.does} {self.n_features} features, and the input has {given}: "
                f"make it from data of that shape, {type(self).__name__}.from_data(X)"
            )


def rows_to_learn_from(X: Any, sample_weight: Any, what: str) -> tuple[Callable[[int], Any], Any, tuple[int, int]]:
    """Return a function that reads a column of the training rows, the weights of the rows, and the shape.

    Parameters
    ----------
    X : array or sparse matrix, shape (n_samples, n_features)
        The rows, on any device.
    sample_weight : array_like, shape (n_samples,), optional
        How much each row counts.
    what : str
        What is learned, for error messages.

    Returns
    -------
    column : callable
        ``column(i)`` is a host array, shape (n_samples,).
    weight : numpy.ndarray of float64 or None
        None without weights.
    shape : tuple of int
        That of X.

    Raises
    ------
    ValueError
        If X is not a matrix with rows, or the weights do not fit.
    """
    X = X.tocsc() if hasattr(X, "tocsc") else to_numpy(X)
    if len(X.shape) != 2 or not X.shape[0]:
        raise ValueError(f"X has shape {X.shape}, and {what} are learned from (n_samples, n_features) with a sample")
    weight = None if sample_weight is None else to_numpy(sample_weight).astype("float64")
    if weight is not None and (weight.shape != X.shape[:1] or not (weight >= 0).all() or not weight.any()):
        raise ValueError(f"sample_weight must be {X.shape[0]} numbers, not negative, and not all zero")

    def column(i: int) -> Any:
        return X[:, [i]].toarray()[:, 0] if hasattr(X, "toarray") else X[:, i]

    return column, weight, X.shape


def check_finite(values: np.ndarray[Any, Any], column: int) -> None:
    """Raise ValueError unless the numbers of a column are finite."""
    if not np.isfinite(values).all():
        raise ValueError(f"column {column} of X has numbers that are not finite: fill them or drop these rows")
