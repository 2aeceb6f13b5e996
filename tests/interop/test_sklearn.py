"""Models from scikit-learn: its own predictions, and the same bits in the weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from dense_xp import Dense, Sequential, to_numpy
from dense_xp.backend import Backend
from dense_xp.interop import from_sklearn
from dense_xp.layers.activations import get_activation
from tests.references import check

pytest.importorskip("sklearn")

from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 6))
TARGETS = {
    "binary": (X[:, 0] > X[:, 1]).astype(int),
    "classes": np.array(["low", "middle", "high"])[np.digitize(X[:, 0], [-0.5, 0.5])],
    "labels": np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] > 0.5], axis=1).astype(int),
    "number": X[:, 0] ** 2,
    "numbers": X[:, :2] ** 2,
}


def fitted(target: str, **kwargs: Any) -> Any:
    kind = MLPRegressor if target.startswith("number") else MLPClassifier
    estimator = kind(hidden_layer_sizes=(8, 5), max_iter=20, solver="lbfgs", random_state=0, **kwargs)
    estimator.set_params(tol=10.0)  # it need not converge
    return estimator.fit(X.astype(kwargs.pop("dtype", "float64")), TARGETS[target])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("target", TARGETS)
def test_both_predict_the_same(target: str, activation: str) -> None:
    estimator = fitted(target, activation=activation)
    model = from_sklearn(estimator)
    assert model.dtype == "float64"
    logits = model.predict(X)
    check(logits, model, X, "float64")
    final = {"softmax": "softmax", "logistic": "sigmoid", "identity": None}[estimator.out_activation_]
    if target.startswith("number"):
        theirs = estimator.predict(X).reshape(logits.shape)
    else:
        theirs = estimator.predict_proba(X)
        theirs = theirs[:, 1:] if target == "binary" else theirs
    activated = get_activation(final)
    check(theirs, Sequential([model] if activated is None else [model, activated]), X, "float64")
    if target == "classes":
        np.testing.assert_array_equal(estimator.classes_[logits.argmax(axis=1)], estimator.predict(X))
    elif final == "sigmoid":
        np.testing.assert_array_equal((logits > 0).reshape(estimator.predict(X).shape), estimator.predict(X))


def test_weights_keep_their_bits_on_every_backend(backend: Backend) -> None:
    estimator = MLPClassifier(hidden_layer_sizes=(8, 5), tol=10.0, n_iter_no_change=1, random_state=0)
    estimator.fit(X.astype("float32"), TARGETS["classes"])
    model = from_sklearn(estimator, backend=backend)
    assert (model.dtype, model.backend) == ("float32", backend)
    assert [layer.n_units for layer in model.layers] == [8, 5, 3]
    for layer, W, w0 in zip(model.layers, estimator.coefs_, estimator.intercepts_, strict=True):
        assert isinstance(layer, Dense)
        np.testing.assert_array_equal(to_numpy(layer.W), W)
        np.testing.assert_array_equal(to_numpy(layer.w0)[0], w0)
    before = estimator.coefs_[0].copy()
    model.set_weights({"dense.W": np.zeros((6, 8))})
    np.testing.assert_array_equal(estimator.coefs_[0], before)


def test_the_poisson_loss_has_a_logarithm() -> None:
    if "loss" not in MLPRegressor().get_params():
        pytest.skip("this scikit-learn has no Poisson loss")
    estimator = MLPRegressor(loss="poisson", hidden_layer_sizes=(4,), max_iter=3, tol=10.0, random_state=0)
    estimator.set_params(solver="lbfgs").fit(X, np.exp(X[:, 0]))
    assert estimator.out_activation_ == "exp"
    np.testing.assert_allclose(np.exp(from_sklearn(estimator).predict(X)[:, 0]), estimator.predict(X), rtol=1e-12)


def test_what_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"MLPClassifier is not fitted: call fit\(X, y\) first"):
        from_sklearn(MLPClassifier())
    with pytest.raises(TypeError, match=r"this is a LogisticRegression$"):
        from_sklearn(LogisticRegression())
    with pytest.raises(TypeError, match=r"this is a Pipeline: pass its last step, pipeline\[-1\]"):
        from_sklearn(make_pipeline(StandardScaler(), MLPClassifier()))


def test_sklearn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = MLPClassifier()
    monkeypatch.delitem(sys.modules, "sklearn.neural_network")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'this needs sklearn, .* pip install "dense-xp\[sklearn\]"'):
        from_sklearn(estimator)
