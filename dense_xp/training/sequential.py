"""A model that learns from data: what is called a multi-layer perceptron."""

from __future__ import annotations

import sys
from typing import TextIO

from dense_xp.layers.chain import Chain
from dense_xp.training import summary
from dense_xp.training.fitting import fit
from dense_xp.training.prediction import evaluate, predict, predictor


class Sequential(Chain):
    """Layers applied one after the other.

    Parameters
    ----------
    layers : sequence of Layer
        In the order in which data pass through them.
    input_shape : tuple of int, optional
        ``(n_features,)``. Without it, it comes from the first layer or the first batch.
    name, dtype, backend, rng
        See :class:`Layer`; layers without a setting of their own take these. One seed in ``rng`` fixes
        the initial weights, the order of the samples and dropout, on every backend alike.

    Raises
    ------
    TypeError
        If something in `layers` is not a layer.

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import Adam, Dense, Sequential
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> model = Sequential([Dense(32, activation="tanh"), Dense(1)], rng=0)
    >>> history = model.fit(X, X[:, 0] ** 2, epochs=200, batch_size=16, optimizer=Adam(0.01))
    >>> history["loss"][-1] < 1e-3
    True
    >>> model.predict(X).shape
    (64, 1)
    """

    fit = fit
    predict = predict
    predictor = predictor
    evaluate = evaluate

    def summary(self, file: TextIO | None = None) -> None:
        """Print a table of the layers, their output shapes and how many parameters they have.

        Parameters
        ----------
        file : text stream, optional
            Where to print; standard output by default.
        """
        print(summary.as_text(self), file=file or sys.stdout)

    def _repr_html_(self) -> str:
        """Return what :meth:`summary` prints, as a notebook shows it."""
        return summary.as_html(self)
