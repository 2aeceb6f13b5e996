"""Models from scikit-learn's multi-layer perceptrons."""

from __future__ import annotations

from typing import Any

from dense_xp.interop.building import finished, imported
from dense_xp.layers.dense import Dense
from dense_xp.training.sequential import Sequential

_NAMES = {"identity": None, "logistic": "sigmoid", "tanh": "tanh", "relu": "relu"}


def from_sklearn(estimator: Any, *, backend: Any = None) -> Sequential:
    """Make a model of a fitted ``MLPClassifier`` or ``MLPRegressor``.

    The model returns what the estimator has before its ``out_activation_``: numbers for a regressor (their
    logarithm under the Poisson loss), logits for a classifier. With several classes, softmax turns logits into
    probabilities, and the most likely class is ``classes_[logits.argmax(axis=1)]``. A single logit, or one for each
    label, is positive for yes, and sigmoid gives its probability.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted. Earlier steps of a pipeline, such as scaling, are not converted.
    backend : str or module or Backend, optional
        Where the new model lives; by default the setting in force.

    Returns
    -------
    Sequential
        Initialized and without an optimizer, in the dtype that the estimator was fitted in.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    TypeError, ValueError
        If it is something else, or not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPRegressor
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> fitted = MLPRegressor(hidden_layer_sizes=5, activation="tanh", solver="lbfgs", tol=1e-3)
    >>> fitted = fitted.fit(X, X[:, 0])
    >>> model = from_sklearn(fitted)
    >>> model
    Sequential([
        Dense(n_units=5, activation='tanh', input_shape=(1,)),
        Dense(n_units=1, input_shape=(5,)),
    ], input_shape=(1,), dtype='float64')
    >>> bool(abs(model.predict(X)[:, 0] - fitted.predict(X)).max() < 1e-12)
    True
    """
    library = imported("sklearn.neural_network", "sklearn")
    if not isinstance(estimator, library.MLPClassifier | library.MLPRegressor):
        raise TypeError(
            f"from_sklearn takes an MLPClassifier or MLPRegressor, and this is a {type(estimator).__name__}"
            + (": pass its last step, pipeline[-1]" if hasattr(estimator, "steps") else "")
        )
    if not hasattr(estimator, "coefs_"):
        raise ValueError(f"the {type(estimator).__name__} is not fitted: call fit(X, y) first")
    parts = []
    for i, (W, w0) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True), 1):
        activation = _NAMES[estimator.activation] if i < len(estimator.coefs_) else None
        parts.append((Dense(W.shape[1], (W.shape[0],), activation=activation), {"W": W, "w0": w0.reshape(1, -1)}))
    return finished(parts, dtype=estimator.coefs_[0].dtype.name, backend=backend)
