"""scikit-learn's own checks, what scikit-learn does with an estimator, and pickles that outlive their device."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.8")

import joblib
import sklearn
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from dense_xp import (
    SGD,
    Adam,
    BatchNorm,
    CosineSchedule,
    Dense,
    Dropout,
    Huber,
    LayerNorm,
    PiecewiseLinear,
    ReLU,
    Tanh,
    load,
    quantile_edges,
    save,
    to_numpy,
)
from dense_xp.backend import Backend, NoDeviceError, backend_of, get_backend, use_backend
from dense_xp.datasets import load_digits
from dense_xp.estimators import DenseClassifier, DenseRegressor
from tests.backend.test_libraries import cupy  # noqa: F401 - a stand-in for it, with two devices

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4))
LABELS = np.asarray(["ash", "elm", "oak"])[(X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)]
CODES = np.unique(LABELS, return_inverse=True)[1]
BINARY = X[:, 0] + X[:, 2] > 0
MANY = np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 0] + X[:, 2] > 0], axis=1).astype(int)
VALUES = 300 + 40 * X[:, 0] - 20 * X[:, 1]

FAST: dict[str, Any] = {"hidden_layer_sizes": (16,), "learning_rate": 0.02, "max_epochs": 60, "random_state": 0}


# ------------------------------------------------------------------ scikit-learn's checks

# Copies of a sample are dropped out each for itself and count in the statistics of a batch; a weight does neither.
# So with these two, one sample of weight two is another problem than two samples, in whatever library.
NOT_THE_SAME = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
# Before 1.9, the labels had to be on the device too; ours stay on the host, and so pickles know no device.
SINCE_1_9 = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
VARIANTS: tuple[tuple[str, dict[str, Any], tuple[str, ...]], ...] = (
    ("default", {}, ()),
    ("sgd-layer", {"optimizer": SGD(0.02, momentum=0.9), "normalization": "layer", "activation": "tanh"}, ()),
    ("gaussian", {"loss": "gaussian"}, ()),
    ("bins", {"n_bins": 8}, ()),
    ("members", {"n_members": 3}, ()),
    ("quantiles", {"loss": "quantile", "quantiles": [0.25]}, ()),
    ("dropout-batch", {"dropout": 0.1, "normalization": "batch", "max_epochs": 100}, NOT_THE_SAME),
)


def _checks() -> Iterator[Any]:
    for kind in (DenseClassifier, DenseRegressor):
        for variant, params, left_out in VARIANTS:
            if kind is DenseClassifier and "loss" in params:
                continue
            short = {"max_epochs": 40} | params if params else {}
            for number, (estimator, check) in enumerate(estimator_checks_generator(kind(**short))):
                name = getattr(check, "func", check).__name__
                if name not in left_out and (SINCE_1_9 or name != "check_array_api_input"):
                    yield pytest.param(estimator, check, id=f"{kind.__name__}-{variant}-{name}-{number}")


@pytest.mark.parametrize(("estimator", "check"), list(_checks()))
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


# ------------------------------------------------------------------ learning


def test_a_classifier_learns_labels_of_any_kind() -> None:
    for labels in (LABELS, CODES, CODES - 7, LABELS.astype(object), BINARY):
        classifier = DenseClassifier(**FAST).fit(X, labels)
        np.testing.assert_array_equal(classifier.classes_, np.unique(labels))
        assert classifier.score(X, labels) > 0.9
        assert classifier.predict(X).dtype == classifier.classes_.dtype
        p = classifier.predict_proba(X)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(classifier.classes_[p.argmax(axis=1)], classifier.predict(X))
        np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), p)
    decision = classifier.decision_function(X)
    np.testing.assert_array_equal(decision > 0, classifier.predict(X))
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), p[:, 1])


def test_several_labels_a_sample() -> None:
    classifier = DenseClassifier(**FAST).fit(X, MANY)
    p, decision = classifier.predict_proba(X), classifier.decision_function(X)
    assert p.shape == MANY.shape
    assert (classifier.predict(X) == MANY).mean() > 0.95
    np.testing.assert_array_equal(classifier.predict(X), (decision > 0).astype(int))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-decision)))
    np.testing.assert_allclose(classifier.predict_log_proba(X), np.log(p))
    np.testing.assert_array_equal(DenseClassifier(**FAST).fit(X, sparse.csr_array(MANY)).predict_proba(X), p)
    with pytest.raises(ValueError, match="where there are several, pass sample_weight"):
        DenseClassifier(class_weight="balanced").fit(X, MANY)


def test_a_regressor_predicts_in_the_units_of_its_targets() -> None:
    regressor = DenseRegressor(**FAST).fit(X, VALUES)
    assert regressor.score(X, VALUES) > 0.98
    np.testing.assert_allclose(regressor.model_.predict(X)[:, 0], regressor.predict(X))
    other = DenseRegressor(**FAST).fit(X, 1e-6 * VALUES - 3)
    np.testing.assert_allclose((other.predict(X) + 3) * 1e6, regressor.predict(X), rtol=1e-6)
    assert abs(DenseRegressor(**FAST).fit(X, np.full(90, 7.0)).predict(X) - 7).max() < 0.2  # of a scale of 1


def test_several_targets_each_in_its_own_units() -> None:
    targets = np.stack([VALUES, 1e-4 * X[:, 2]], axis=1)
    regressor = DenseRegressor(**FAST).fit(X, targets)
    assert regressor.predict(X).shape == (90, 2)
    residual = ((regressor.predict(X) - targets) ** 2).mean(axis=0) / targets.var(axis=0)
    assert (residual < 0.05).all()
    assert DenseRegressor(**FAST).fit(X, targets[:, :1]).predict(X).shape == (90, 1)
    assert DenseRegressor(loss=Huber(0.5), **FAST).fit(X, VALUES).score(X, VALUES) > 0.95


def test_the_defaults_learn_the_digits() -> None:
    images, digits = load_digits()
    classifier = DenseClassifier(random_state=0, max_epochs=50).fit(images[:1400], digits[:1400])
    assert classifier.score(images[1400:], digits[1400:]) > 0.9


def test_weights_of_samples_and_classes_are_the_same_thing() -> None:
    def p(weight: Any = None, **params: Any) -> Any:
        return DenseClassifier(**FAST, **params).fit(X, LABELS, weight).predict_proba(X)

    each = np.asarray([5.0, 1.0, 0.5])
    np.testing.assert_allclose(p(class_weight={"ash": 5, "oak": 0.5}), p(each[CODES]))
    assert abs(p(class_weight={"ash": 5}) - p()).max() > 1e-3
    # balanced by the weight of the samples, so that leaving one out and giving it no weight are the same
    kept = np.arange(90) % 3 > 0
    counts = np.bincount(CODES, weights=kept)
    np.testing.assert_allclose(p(kept, class_weight="balanced"), p(kept * (60 / (3 * counts))[CODES]))


def test_what_a_fit_leaves_behind() -> None:
    seen: list[int] = []
    classifier = DenseClassifier(**FAST, callbacks=[lambda run: seen.append(run.epoch)], n_iter_no_change=None)
    assert classifier.fit(X, LABELS) is classifier
    assert (classifier.n_features_in_, classifier.n_outputs_, classifier.n_iter_) == (4, 3, 60)
    assert seen == list(range(1, 61))
    assert classifier.loss_ == classifier.history_["loss"][-1]
    assert classifier.model_.dtype == "float64"
    assert DenseClassifier(**FAST).fit(X.astype("float32"), LABELS).model_.dtype == "float32"
    assert DenseClassifier(**FAST).fit((9 * X).astype(int), LABELS).model_.dtype == "float64"
    assert DenseClassifier(dtype="float32", **FAST).fit(X, LABELS).predict_proba(X).dtype == np.float32


def test_the_seed_fixes_everything() -> None:
    def p(seed: Any) -> Any:
        return (
            DenseClassifier(**{**FAST, "random_state": seed}, dropout=0.2, batch_size=32)
            .fit(X, LABELS)
            .predict_proba(X)
        )

    np.testing.assert_array_equal(p(3), p(3))
    np.testing.assert_array_equal(p(np.random.RandomState(3)), p(np.random.RandomState(3)))
    assert (p(3) != p(4)).any()


def test_training_ends_when_the_loss_no_longer_falls() -> None:
    params = {**FAST, "max_epochs": 400}
    stopped = DenseClassifier(**params, tol=0.05, n_iter_no_change=5).fit(X, LABELS)
    assert 6 < stopped.n_iter_ < 100
    assert "loss has not improved for 6 epochs" in stopped.history_.stopped
    assert DenseClassifier(**params, tol=0.05, n_iter_no_change=None).fit(X, LABELS).n_iter_ == 400


def test_early_stopping_brings_the_best_weights_back() -> None:
    noisy = np.where(RNG.uniform(size=90) < 0.3, np.roll(LABELS, 1), LABELS)
    params = {**FAST, "max_epochs": 400, "hidden_layer_sizes": (64,), "n_iter_no_change": 10}
    classifier = DenseClassifier(**params, early_stopping=True, validation_fraction=0.2).fit(X, noisy)
    history = classifier.history_
    best = int(np.argmin(history["val_loss"]))
    assert classifier.n_iter_ < 400
    assert history.best_epoch == best + 1 < classifier.n_iter_
    assert classifier.loss_ == history["loss"][best]
    assert history.samples == 72 * classifier.n_iter_  # one fifth was held back
    with pytest.raises(ValueError, match="The least populated class"):  # a part of each class is held back
        DenseClassifier(early_stopping=True).fit(X, np.where(np.arange(90) == 0, "fir", LABELS))
    regressor = DenseRegressor(**params, early_stopping=True).fit(X, VALUES, np.ones(90))
    assert regressor.score(X, VALUES) > 0.9
    assert DenseClassifier(**params, early_stopping=True).fit(sparse.csr_array(X), MANY).history_.best_epoch


def test_early_stopping_by_itself_is_for_more_than_few_rows() -> None:
    rows, labels, values = np.tile(X, (2, 1)), np.tile(LABELS, 2), np.tile(VALUES, 2)
    for kind, y in ((DenseClassifier, labels), (DenseRegressor, values)):
        few, many = kind(**FAST).fit(rows[:99], y[:99]), kind(**FAST).fit(rows[:100], y[:100])
        assert ("val_loss" in few.history_, few.network_.dtype) == (False, "float64")
        assert ("val_loss" in many.history_, many.network_.dtype) == (True, "float32")
        assert many.t_ == 90 * many.n_iter_
        weight = np.arange(180) < 99  # the others count for nothing
        assert "val_loss" not in kind(**FAST).fit(rows, y, weight).history_
        weight[:150] = True
        assert kind(**FAST).fit(rows, y, weight).t_ % 165 == 0  # 15 of 150 were watched
    rare = np.where(np.arange(180) == 0, "fir", labels)  # cannot be on both sides
    assert DenseClassifier(**FAST).fit(rows, rare).predict_proba(rows).shape == (180, 4)
    assert "val_loss" not in DenseClassifier(**FAST).partial_fit(rows, labels, classes=labels).history_


def test_features_come_in_any_units() -> None:
    units, far = np.asarray([1e-6, 1.0, 1e5, 1e3]), np.where(np.arange(90) == 7, 1e9, X[:, 3])
    moved = units * (np.column_stack([X[:, :3], far]) - 0.5)
    for kind, y in ((DenseClassifier, LABELS), (DenseRegressor, VALUES)):
        assert kind(**FAST).fit(moved, y).score(moved, y) > 0.9
        assert kind(**FAST, scaling=None).fit(moved, y).score(moved, y) < 0.9
        both = kind(**FAST, n_bins=4).fit(moved, y)
        assert [type(layer).__name__ for layer in both.model_.layers[:2]] == ["RobustScale", "PiecewiseLinear"]
        assert both.score(moved, y) > 0.9


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("y", [LABELS, MANY, VALUES], ids=["classes", "labels", "numbers"])
def test_the_attributes_of_scikit_learns_perceptrons(y: Any, early: bool) -> None:
    common = {"hidden_layer_sizes": (16, 8), "early_stopping": early, "warm_start": True, "random_state": 0}
    common |= {"validation_fraction": 0.2, "n_iter_no_change": 50, "tol": 0.0}
    ours = (DenseRegressor if y is VALUES else DenseClassifier)(max_epochs=5, **common)
    theirs = (MLPRegressor if y is VALUES else MLPClassifier)(max_iter=5, **common)
    least = np.inf
    for fits in (1, 2):
        ours.fit(X, y)
        with pytest.warns(ConvergenceWarning, match="5"):
            theirs.fit(X, y)
        least = min(least, *ours.history_["loss"])
        assert ours.best_loss_ == (None if early else least)
        assert (theirs.best_loss_ is None) == early
        assert ours.t_ == theirs.t_ == fits * 5 * (72 if early else 90)
        assert ours.n_layers_ == theirs.n_layers_ == 4
        assert ours.out_activation_ == theirs.out_activation_
    ours.set_params(warm_start=False, hidden_layer_sizes=7, early_stopping=False).fit(X, y)
    assert (ours.t_, ours.n_layers_, ours.best_loss_) == (5 * 90, 3, min(ours.history_["loss"]))


# ------------------------------------------------------------------ going on


def test_partial_fit_is_fit_epoch_by_epoch() -> None:
    params = {**FAST, "max_epochs": 6, "n_iter_no_change": None, "batch_size": 32}
    for kind, y, first in ((DenseClassifier, LABELS, {"classes": ["oak", "elm", "ash"]}), (DenseRegressor, VALUES, {})):
        whole, parts = kind(**params).fit(X, y), kind(**params)
        parts.partial_fit(X, y, **first)
        for _ in range(5):
            parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
        np.testing.assert_allclose(parts.predict(X[:2].tolist()) == whole.predict(X[:2]), True)
        for name, value in whole.model_.weights.items():
            np.testing.assert_allclose(parts.model_.weights[name], value, rtol=1e-9)
        assert (parts.n_iter_, parts.t_, parts.best_loss_) == (1, whole.t_, pytest.approx(whole.best_loss_))


def test_partial_fit_knows_classes_that_have_not_come_yet() -> None:
    classifier = DenseClassifier(**FAST)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        classifier.partial_fit(X, LABELS)
    assert not hasattr(classifier, "model_")
    classifier.partial_fit(X[CODES < 2], LABELS[CODES < 2], classes=["ash", "elm", "oak"])
    assert classifier.predict_proba(X).shape == (90, 3)
    with pytest.raises(ValueError, match=r"y holds the labels \['fir'\], and classes_ are \['ash', 'elm', 'oak'\]"):
        classifier.partial_fit(X, np.where(CODES == 0, "fir", LABELS))
    with pytest.raises(ValueError, match="has 3 features, but DenseClassifier is expecting 4"):
        classifier.partial_fit(X[:, :3], LABELS)
    with pytest.raises(ValueError, match="cannot stop early"):
        classifier.set_params(early_stopping=True).partial_fit(X, LABELS)
    with pytest.raises(ValueError, match="needs all data at once"):
        classifier.set_params(early_stopping=False, class_weight="balanced").partial_fit(X, LABELS)
    assert DenseClassifier(**FAST).partial_fit(X, MANY).predict(X).shape == MANY.shape


def test_warm_start_goes_on_from_the_weights() -> None:
    params = {**FAST, "max_epochs": 5, "warm_start": True}
    classifier = DenseClassifier(**params).fit(X, LABELS)
    model, loss = classifier.model_, classifier.loss_
    assert classifier.fit(X, LABELS).model_ is model
    assert classifier.history_["loss"][0] < loss
    with pytest.raises(ValueError, match="the hidden layers are not those of the model"):
        classifier.set_params(hidden_layer_sizes=(8,)).fit(X, LABELS)
    assert classifier.set_params(warm_start=False).fit(X, LABELS).model_ is not model
    regressor = DenseRegressor(**params).fit(X, VALUES)
    before = regressor.loss_
    regressor.fit(X, VALUES)
    assert regressor.history_["loss"][0] < before  # the weights were in the units of y meanwhile
    with pytest.raises(ValueError, match="not the form that it had before, with 1 outputs"):
        regressor.fit(X, MANY)


# ------------------------------------------------------------------ the network


def test_parameters_make_the_network() -> None:
    def layers(**params: Any) -> list[Any]:
        given = {"scaling": None, "max_epochs": 1, **params}
        return DenseClassifier(**given).fit(X, LABELS).model_.layers[:-1]

    (only,) = layers()
    assert (only.n_units, type(only.activation)) == (100, ReLU)
    assert layers(hidden_layer_sizes=()) == []
    assert [layer.n_units for layer in layers(hidden_layer_sizes=7)] == [7]
    first, second = layers(hidden_layer_sizes=(5, 6), activation=["relu", Tanh()])
    assert (type(first.activation), type(second.activation)) == (ReLU, Tanh)
    shared = layers(hidden_layer_sizes=[5, 6], activation=Tanh(), normalization="layer", dropout=0.3)
    assert [type(layer) for layer in shared] == 2 * [Dense, LayerNorm, Tanh, Dropout]
    assert [type(layer) for layer in layers(normalization="batch", activation="linear")] == [Dense, BatchNorm]


@pytest.mark.parametrize("early", [False, True])
def test_bins_are_those_of_the_rows_that_are_learned_from(early: bool) -> None:
    regressor = DenseRegressor(**FAST, scaling=None, n_bins=12, early_stopping=early).fit(X, VALUES)
    encoding = regressor.model_.layers[0]
    assert isinstance(encoding, PiecewiseLinear)
    assert encoding.output_shape() == (4 * 12,)
    assert (list(encoding.edges) == quantile_edges(X, 12)) != early
    thin = np.where(X > 0.5, X, 0)
    dense, sparsely = (clone(regressor).fit(rows, VALUES) for rows in (thin, sparse.csr_array(thin)))
    np.testing.assert_allclose(sparsely.predict(thin), dense.predict(thin), rtol=1e-6)
    again = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_array_equal(again.predict(X), regressor.predict(X))
    assert clone(regressor).n_bins == regressor.get_params()["n_bins"] == 12


def test_bins_see_what_a_line_does_not() -> None:
    rows = np.random.default_rng(0).uniform(size=(300, 2)) * [1, 1000]
    steps = np.floor(6 * rows[:, 0]) % 2
    fast = {**FAST, "hidden_layer_sizes": (4,)}
    encoded, plain = (DenseClassifier(**fast, n_bins=n).fit(rows, steps).score(rows, steps) for n in (24, None))
    assert encoded > 0.9 > 0.7 > plain


def test_bins_stay_with_a_model_that_goes_on() -> None:
    regressor = DenseRegressor(**FAST, scaling=None, n_bins=5, warm_start=True).fit(X, VALUES)
    edges = regressor.network_.layers[0].edges
    regressor.fit(2 * X, VALUES)
    assert regressor.network_.layers[0].edges == edges
    with pytest.raises(ValueError, match="n_bins or the hidden layers are not those of the model"):
        regressor.set_params(n_bins=6).fit(X, VALUES)


def test_members_say_their_mean(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from dense_xp.interop import export_onnx

    for sizes in ((16,), (8, 8), ()):
        params = {**FAST, "hidden_layer_sizes": sizes, "n_members": 3}
        regressor = DenseRegressor(**params, dropout=0.1, normalization="batch", early_stopping=True).fit(X, VALUES)
        np.testing.assert_allclose(regressor.model_.predict(X)[:, 0], regressor.predict(X), rtol=1e-6)
        classifier = DenseClassifier(**params, early_stopping=True).fit(X, LABELS)
        np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1)
        model = classifier.model_
        members = copy.deepcopy(model)
        last = members.children["ensemble_mean"]
        each = last.forward(
            {},
            members.with_layers({k: v for k, v in members.children.items() if v is not last}).predict(X),
            training=True,
        )[0]
        p = np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True)
        assert p.shape == (90, 3, 3)
        assert np.std(p, axis=1).max() > 0.01
        np.testing.assert_allclose(classifier.predict_proba(X), p.mean(axis=1), rtol=1e-6)
        # what early stopping looks at is the loss of the mean
        assert classifier.history_.best_epoch == 1 + int(np.argmin(classifier.history_["val_loss"]))
        save(model, tmp_path / "m")
        np.testing.assert_array_equal(load(tmp_path / "m").predict(X), model.predict(X))
        export_onnx(classifier, tmp_path / "m.onnx", activation="softmax")
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"X": X})[0], classifier.predict_proba(X), rtol=1e-6)
    several = DenseClassifier(**FAST, n_members=3).fit(X, MANY)
    assert (several.predict(X) == MANY).mean() > 0.95
    with pytest.raises(ValueError, match="would mix the members"):
        DenseClassifier(n_members=2, normalization="layer").fit(X, LABELS)


def test_members_train_on_any_backend(backend: Backend) -> None:
    expected, actual = (
        DenseClassifier(**FAST, n_members=2, n_bins=6, backend=where, dtype="float64").fit(X, LABELS)
        for where in ("numpy", backend)
    )
    np.testing.assert_allclose(actual.predict_proba(X), expected.predict_proba(X), atol=1e-6)


def test_settings_of_the_optimizer_can_be_given_beside_it() -> None:
    def optimizer(**params: Any) -> Any:
        return DenseRegressor(max_epochs=1, **params).fit(X, VALUES).model_.optimizer

    schedule = CosineSchedule(0.1, 10)
    adam = Adam(0.003, weight_decay=0.3, no_decay=("w0", "gamma", "beta"))
    assert optimizer() == adam
    assert optimizer(optimizer=Adam()) == Adam()
    assert optimizer(optimizer="sgd") == SGD()
    assert optimizer(learning_rate=0.5, weight_decay=0.1) == replace(adam, learning_rate=0.5, weight_decay=0.1)
    assert optimizer(optimizer=SGD(0.1, momentum=0.9), learning_rate=schedule) == SGD(schedule, momentum=0.9)
    assert optimizer(optimizer="sgd") == SGD()


class Own:
    def update(self, weights: Any, grad: Any) -> Any:
        return weights - 0.1 * grad


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"hidden_layer_sizes": (3, 0)}, "n_units must be a positive integer, and is 0"),
        ({"hidden_layer_sizes": -1}, "The 'hidden_layer_sizes' parameter of DenseRegressor must be"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"activation": ["relu", "relu"]}, "activation has 2 entries and hidden_layer_sizes 1"),
        ({"dropout": 1.0}, "The 'dropout' parameter"),
        ({"normalization": "group"}, "The 'normalization' parameter"),
        ({"optimizer": "adma"}, "did you mean 'adam'"),
        ({"optimizer": None}, "optimizer must be a name such as 'adam'"),
        ({"optimizer": Own(), "learning_rate": 0.1}, "has settings of its own: leave learning_rate at None"),
        ({"learning_rate": 0.0}, "The 'learning_rate' parameter"),
        ({"weight_decay": -1}, "The 'weight_decay' parameter"),
        ({"batch_size": "all"}, "The 'batch_size' parameter"),
        ({"max_epochs": 0}, "The 'max_epochs' parameter"),
        ({"tol": -1.0}, "The 'tol' parameter"),
        ({"n_iter_no_change": 0}, "The 'n_iter_no_change' parameter"),
        ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter"),
        ({"callbacks": print}, "The 'callbacks' parameter"),
        ({"backend": np}, "The 'backend' parameter"),
        ({"backend": "nmpy"}, "did you mean 'numpy'"),
        ({"dtype": "int8"}, "The 'dtype' parameter"),
        ({"loss": "hubr"}, "did you mean 'huber'"),
        ({"random_state": "x"}, "The 'random_state' parameter"),
    ],
)
def test_bad_values_are_named(params: dict[str, Any], message: str) -> None:
    regressor = DenseRegressor(**params)
    with pytest.raises(ValueError, match=message):
        regressor.fit(X, VALUES)
    assert not hasattr(regressor, "model_")


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(89), r"sample_weight has shape \(89,\) and needs \(90,\)"),
        (-np.ones(90), "must not be negative"),
        (np.zeros(90), "nor zero for every sample"),
        (np.full(90, np.nan), "sample_weight contains NaN"),
    ],
)
def test_bad_weights_are_named(weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseRegressor().fit(X, VALUES, weight)


def test_an_optimizer_of_ones_own() -> None:
    regressor = DenseRegressor(optimizer=Own(), max_epochs=60, random_state=0).fit(X, VALUES)
    assert regressor.score(X, VALUES) > 0.8
    assert pickle.loads(pickle.dumps(regressor)).partial_fit(X, VALUES).score(X, VALUES) > 0.8


# ------------------------------------------------------------------ kinds of data


def test_sparse_rows_are_made_dense_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    thin = X * (X > 0)
    dense = DenseClassifier(**FAST, batch_size=20).fit(thin, LABELS)
    sizes = set()
    toarray = sparse.csr_array.toarray

    def seen(self: Any, *arguments: Any, **kwargs: Any) -> Any:
        sizes.add(self.shape[0])
        return toarray(self, *arguments, **kwargs)

    monkeypatch.setattr(sparse.csr_array, "toarray", seen)
    rows = sparse.csr_array(thin)
    classifier = DenseClassifier(**FAST, batch_size=20).fit(rows, LABELS)
    assert sizes == {20, 10}  # the last batch
    np.testing.assert_array_equal(classifier.predict_proba(rows), dense.predict_proba(thin))
    np.testing.assert_array_equal(classifier.predict_proba(sparse.csc_matrix(thin)), dense.predict_proba(thin))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_the_names_of_their_columns(library: str) -> None:
    frames = pytest.importorskip(library)
    if library == "polars" and not SINCE_1_9:
        pytest.skip("scikit-learn does not read the names of polars' columns before 1.9")
    names = ["a", "b", "c", "d"]
    frame = frames.DataFrame(dict(zip(names, X.T, strict=True)))
    classifier = DenseClassifier(**FAST).fit(frame, frames.Series(LABELS))
    np.testing.assert_array_equal(classifier.feature_names_in_, names)
    np.testing.assert_array_equal(classifier.predict(frame), DenseClassifier(**FAST).fit(X, LABELS).predict(X))
    with pytest.raises(ValueError, match=r"(?s)feature names should match.*order"):
        classifier.predict(frame[names[::-1]])
    classifier.fit(X, LABELS)
    assert not hasattr(classifier, "feature_names_in_")


# ------------------------------------------------------------------ backends


def test_host_data_train_on_any_backend(backend: Backend) -> None:
    """One argument moves it, and what comes back is NumPy's."""
    here = DenseClassifier(**FAST, dtype="float32").fit(X, LABELS)
    there = DenseClassifier(**FAST, backend=backend).fit(X, LABELS)
    assert there.model_.backend == backend
    assert there.model_.dtype == ("float64" if backend.name == "numpy" else "float32")
    p = there.predict_proba(X)
    assert type(p) is np.ndarray
    np.testing.assert_allclose(p, here.predict_proba(X), atol=2e-3)
    np.testing.assert_array_equal(there.predict(X), here.predict(X))
    with use_backend(backend):
        assert DenseRegressor(**FAST).fit(X, VALUES).model_.backend == backend
    regressor = DenseRegressor(**FAST, backend=backend).fit(sparse.csr_array(X), VALUES)
    np.testing.assert_allclose(regressor.predict(X), DenseRegressor(**FAST).fit(X, VALUES).predict(X), rtol=1e-2)


def test_arrays_on_a_device_stay_there(backend: Backend) -> None:
    there = backend.asarray(X, "float32")
    same = clone(DenseClassifier(**FAST, dtype="float32")).fit(X, LABELS)
    with config_context(array_api_dispatch=True):
        for y, weight in ((backend.asarray(CODES), np.ones(90)), (LABELS, backend.asarray(np.ones(90)))):
            classifier = DenseClassifier(**FAST).fit(there, y, weight)
            for method in ("predict_proba", "predict_log_proba", "decision_function"):
                found = getattr(classifier, method)(there)
                assert backend_of(found) == backend
                np.testing.assert_allclose(to_numpy(found), getattr(same, method)(X), rtol=1e-2, atol=1e-2)
            labels = classifier.predict(there)
            if y is LABELS:  # strings live on the host alone
                np.testing.assert_array_equal(labels, same.predict(X))
            else:
                assert backend_of(labels) == backend
                np.testing.assert_array_equal(same.classes_[to_numpy(labels)], same.predict(X))
        assert classifier.model_.dtype == "float32"
        whole = DenseClassifier(**FAST).fit(backend.asarray((9 * X).astype("int64")), CODES)
        assert whole.model_.dtype == ("float64" if backend.name == "numpy" else "float32")
        many = DenseClassifier(**FAST, early_stopping=True).fit(there, MANY).predict(there)
        assert backend_of(many) == backend
        assert (to_numpy(many) == MANY).mean() > 0.9
        regressor = DenseRegressor(**FAST, early_stopping=True).fit(there, backend.asarray(VALUES))
        assert backend_of(regressor.predict(there)) == backend
        assert regressor.predict(there).shape == (90,)
        assert np.var(to_numpy(regressor.predict(there)) - VALUES) < 0.1 * np.var(VALUES)
        if backend.name != "jax":  # scikit-learn's R² writes into arrays, which JAX does not have
            assert regressor.score(there, backend.asarray(VALUES, "float32")) > 0.9


def test_an_array_of_another_library_than_the_model(backend: Backend) -> None:
    if backend.name == "numpy":
        pytest.skip("everything may be fed from the host")
    there = backend.asarray(X, "float32")
    with config_context(array_api_dispatch=True):
        classifier = DenseClassifier(**FAST).fit(there, CODES)
        p = to_numpy(classifier.predict_proba(there))
        with pytest.raises(ValueError, match=r"predict\(\) must use the same namespace .* estimator.to\('numpy'\)"):
            classifier.predict(X)
        np.testing.assert_allclose(classifier.to("numpy").predict_proba(X), p, atol=1e-3)
        with pytest.raises(ValueError, match="must use the same namespace and device as the model: X is on"):
            classifier.predict(there)
        classifier.to(backend)
        np.testing.assert_array_equal(to_numpy(classifier.predict_proba(there)), p)
    np.testing.assert_allclose(classifier.predict_proba(X), p, atol=1e-3)  # without dispatch the host is welcome


# ------------------------------------------------------------------ pickles


def test_a_pickle_comes_back_on_its_backend(backend: Backend, tmp_path: Path) -> None:
    for kind, y in ((DenseClassifier, LABELS), (DenseRegressor, VALUES)):
        estimator = kind(**FAST, backend=backend, normalization="batch").fit(X, y)
        joblib.dump(estimator, tmp_path / "estimator")
        for again in (
            pickle.loads(pickle.dumps(estimator)),
            joblib.load(tmp_path / "estimator"),
            clone(estimator).fit(X, y),
        ):
            assert again.model_.backend == get_backend(backend.spec)
            np.testing.assert_array_equal(again.predict(X), estimator.predict(X))
    assert pickle.loads(pickle.dumps(DenseClassifier(backend=backend))).backend == backend.spec
    save(estimator.model_, tmp_path / "model")
    np.testing.assert_allclose(load(tmp_path / "model").predict(X)[:, 0], estimator.predict(X), rtol=1e-4)


@pytest.fixture
def pickled_on_cupy(cupy: Any) -> Any:  # noqa: F811
    estimators = [kind(**FAST, backend="cupy:1", batch_size=32) for kind in (DenseClassifier, DenseRegressor)]
    return [
        (pickle.dumps(estimator.fit(X, y)), estimator.predict(X), y)
        for estimator, y in zip(estimators, (LABELS, VALUES), strict=True)
    ]


def test_a_pickle_comes_back_on_the_gpu(pickled_on_cupy: Any) -> None:
    for data, prediction, _ in pickled_on_cupy:
        again = pickle.loads(data)
        assert again.model_.backend.spec == "cupy:1"
        np.testing.assert_array_equal(again.predict(X), prediction)


@pytest.mark.parametrize("fault", ["no device", "one device less", "no driver", "no memory"])
def test_what_was_trained_on_a_gpu_serves_without_one(cupy: Any, pickled_on_cupy: Any, fault: str) -> None:  # noqa: F811
    def no_driver() -> int:
        raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError("out of memory allocating 64 bytes")

    counts: dict[str, Any] = {"no device": lambda: 0, "one device less": lambda: 1, "no driver": no_driver}
    if fault in counts:
        cupy.cuda.runtime.getDeviceCount = counts[fault]
    else:
        cupy.asarray = no_memory
    for data, prediction, y in pickled_on_cupy:
        with pytest.warns(UserWarning, match="trained on cupy:1, which cannot be used here .*; it computes on NumPy"):
            again = pickle.loads(data)
        assert again.model_.backend.name == "numpy"
        assert type(again.predict(X)) is np.ndarray
        if y is VALUES:
            np.testing.assert_allclose(again.predict(X), prediction, rtol=1e-4)
        else:
            np.testing.assert_array_equal(again.predict(X), prediction)
        again.partial_fit(X, y)  # also learning goes on, where the model is
        assert pickle.loads(pickle.dumps(again)).backend == "cupy:1"  # and is now at home on NumPy: no warning
        with pytest.raises((NoDeviceError, MemoryError)):
            again.fit(X, y)  # but a new one is asked for on the GPU


def test_what_was_trained_on_a_gpu_serves_where_cupy_is_not_even_installed(
    pickled_on_cupy: Any, tmp_path: Path
) -> None:
    (tmp_path / "pickle").write_bytes(pickled_on_cupy[0][0])
    np.save(tmp_path / "X.npy", X)
    code = (
        "import importlib.util, pickle, sys, warnings, numpy\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'cupy' else real(name, *a)\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    classifier = pickle.load(open('pickle', 'rb'))\n"
        "print(*classifier.predict(numpy.load('X.npy')))\n"
        "print(caught[0].message, 'cupy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    labels, note = done.stdout.splitlines()
    assert labels.split() == pickled_on_cupy[0][1].tolist()
    assert "trained on cupy:1, which cannot be used here (the backend 'cupy' is not installed" in note
    assert note.endswith("False")


# ------------------------------------------------------------------ what scikit-learn does with an estimator


def test_pipelines_searches_and_calibration() -> None:
    pipeline = make_pipeline(StandardScaler(), DenseClassifier(**FAST))
    assert cross_val_score(pipeline, X, LABELS, cv=3).mean() > 0.8
    assert cross_val_score(DenseRegressor(**FAST), X, VALUES, cv=3).mean() > 0.8
    grid = {"denseclassifier__hidden_layer_sizes": [(4,), (8, 4)], "denseclassifier__optimizer": ["adam", SGD(0.1)]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=1).fit(X, LABELS)
    assert search.score(X, LABELS) > 0.8
    assert len(search.cv_results_["params"]) == 4
    calibrated = CalibratedClassifierCV(DenseClassifier(**FAST), cv=2).fit(X, BINARY)
    assert calibrated.score(X, BINARY) > 0.9


def test_an_estimator_that_has_not_learned_says_so() -> None:
    for call in (lambda: DenseClassifier().predict_proba(X), lambda: DenseRegressor().to("numpy")):
        with pytest.raises(NotFittedError):
            call()
    assert repr(DenseClassifier(backend="cupy")) == "DenseClassifier(backend='cupy')"


def test_progress_is_shown_if_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    DenseRegressor(max_epochs=2).fit(X, VALUES)
    assert capsys.readouterr().err == ""
    DenseRegressor(max_epochs=2, batch_size=90, verbose=True).fit(X, VALUES)
    assert "2/2" in capsys.readouterr().err


def test_without_scikit_learn_the_error_names_the_command() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try: import dense_xp.estimators\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "dense-xp[sklearn]"' in done.stdout


@pytest.mark.parametrize("place", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("size", [1.0, 1e200, 1e-170, 1e-300])
def test_targets_far_from_zero_and_of_any_size(place: str, size: float, tmp_path: Path) -> None:
    pytest.importorskip(place)
    wave = np.sin(3 * X[:, 0])
    near = DenseRegressor(**FAST, backend=place).fit(X, wave)
    for y in (size * wave, size * (1.7e9 + 100 * wave)):
        far = DenseRegressor(**FAST, backend=place).fit(X, y)
        unit = np.max(np.abs(y - y.mean()))
        found = (far.predict(X) - y.mean()) / unit
        assert 1 - np.var(found - (y - y.mean()) / unit) / np.var((y - y.mean()) / unit) > near.score(X, wave) - 0.01
        assert pickle.loads(pickle.dumps(far)).predict(X).tolist() == far.predict(X).tolist()


def test_a_regressor_in_onnx_keeps_the_digits_of_a_large_mean(tmp_path: Path) -> None:
    pytest.importorskip("ndonnx")
    runtime = pytest.importorskip("onnxruntime")
    from dense_xp.interop import export_onnx

    y = 1.7e9 + 100 * VALUES
    regressor = DenseRegressor(**FAST, dtype="float32").fit(X, y)
    export_onnx(regressor, tmp_path / "far.onnx")
    (found,) = runtime.InferenceSession(str(tmp_path / "far.onnx")).run(None, {"X": X.astype("float32")})
    np.testing.assert_allclose(found[:, 0] - 1.7e9, regressor.predict(X) - 1.7e9, atol=1e-2)
    classifier = DenseClassifier(**FAST).fit(X, LABELS)
    export_onnx(classifier, tmp_path / "classes.onnx", activation="softmax")
    (p,) = runtime.InferenceSession(str(tmp_path / "classes.onnx")).run(None, {"X": X})
    np.testing.assert_allclose(p, classifier.predict_proba(X), rtol=1e-5)


def test_other_classes_are_refused() -> None:
    first = DenseClassifier(**FAST).partial_fit(X, CODES, classes=[0, 1, 2])
    before = first.predict_proba(X)
    with pytest.raises(
        ValueError, match=r"the classes are \[0, 1\], and the model that is to learn more has \[0, 1, 2\]"
    ):
        first.partial_fit(X, np.minimum(CODES, 1), classes=[0, 1])
    np.testing.assert_array_equal(first.predict_proba(X), before)
    first.partial_fit(X, np.minimum(CODES, 1))  # a part of the data may lack a class
    first.partial_fit(X, CODES, classes=[2, 1, 0])
    warm = DenseClassifier(**FAST, warm_start=True).fit(X, CODES)
    with pytest.raises(ValueError, match="pass the same, or start anew with warm_start=False"):
        warm.fit(X, np.minimum(CODES, 1))


# ------------------------------------------------------------------ more than a mean

WAVE = np.random.default_rng(1)
ROWS = WAVE.uniform(-1, 1, (3000, 1))
NOISY = 100 + 10 * ROWS[:, 0] + (1 + 4 * (ROWS[:, 0] > 0)) * WAVE.normal(size=3000)  # five times as wide on the right
COUNTS = WAVE.poisson(np.exp(5 + ROWS[:, 0])).astype(float)
QUANTILES = [0.05, 0.5, 0.95]
LEARNS: dict[str, Any] = {
    "hidden_layer_sizes": (32,), "learning_rate": CosineSchedule(0.02, 600), "max_epochs": 40, "random_state": 0,
    "batch_size": 200, "early_stopping": False, "scaling": None, "dtype": "float64",
}  # fmt: skip


def test_quantiles_have_their_share_below_them(backend: Backend) -> None:
    regressor = DenseRegressor(loss="quantile", quantiles=QUANTILES, backend=backend, **LEARNS).fit(ROWS, NOISY)
    found = regressor.predict(ROWS)
    assert found.shape == (3000, 3)
    assert (np.diff(found, axis=1) >= 0).all()
    np.testing.assert_allclose((NOISY[:, None] <= found).mean(axis=0), QUANTILES, atol=0.02)
    width = found[:, 2] - found[:, 0]
    assert width[ROWS[:, 0] > 0.1].mean() > 3 * width[ROWS[:, 0] < -0.1].mean()
    d2 = [sklearn.metrics.d2_pinball_score(NOISY, found[:, i], alpha=q) for i, q in enumerate(QUANTILES)]
    assert regressor.score(ROWS, NOISY) == pytest.approx(np.mean(d2))
    again = pickle.loads(pickle.dumps(regressor))
    np.testing.assert_allclose(again.predict(ROWS), found, rtol=1e-12)
    np.testing.assert_allclose(np.sort(again.model_.predict(ROWS)), found, rtol=1e-5)


def test_one_quantile_and_several_targets() -> None:
    median = DenseRegressor(loss="quantile", **LEARNS).fit(ROWS, NOISY)
    assert median.predict(ROWS).shape == (3000,)
    assert abs((median.predict(ROWS) >= NOISY).mean() - 0.5) < 0.03
    both = np.stack([NOISY, -1e6 * NOISY], axis=1)
    two = DenseRegressor(loss="quantile", quantiles=QUANTILES, **LEARNS).fit(ROWS, both)
    assert two.predict(ROWS).shape == (3000, 2, 3)
    np.testing.assert_allclose((both[..., None] <= two.predict(ROWS)).mean(axis=0), [QUANTILES] * 2, atol=0.03)
    assert 0 < two.score(ROWS, both) < 1
    assert DenseRegressor(loss="quantile", **LEARNS).fit(ROWS, both).predict(ROWS).shape == (3000, 2)


def test_a_mean_and_a_variance_in_the_units_of_y() -> None:
    targets = np.stack([NOISY, 1e-5 * NOISY], axis=1)
    regressor = DenseRegressor(loss="gaussian", **LEARNS).fit(ROWS, targets)
    assert (regressor.n_outputs_, regressor.predict(ROWS).shape) == (4, (3000, 2))
    assert regressor.score(ROWS, targets) > 0.7  # with the true mean it is 0.72
    for i, unit in enumerate((1.0, 1e-5)):
        log_variance = regressor.model_.predict(ROWS)[:, 2 * i + 1]
        for side, spread in ((ROWS[:, 0] > 0.2, 5.0), (ROWS[:, 0] < -0.2, 1.0)):
            assert np.exp(0.5 * log_variance[side]).mean() == pytest.approx(spread * unit, rel=0.25)


@pytest.mark.parametrize("loss", ["poisson", "gamma", "tweedie"])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e12])
def test_counts_and_amounts_of_any_size(loss: str, size: float) -> None:
    """The network starts at the mean, whatever the unit."""
    first = DenseRegressor(loss=loss, **LEARNS).fit(ROWS, COUNTS)
    regressor = DenseRegressor(loss=loss, **LEARNS).fit(ROWS, size * COUNTS)
    found = regressor.predict(ROWS) / size
    np.testing.assert_allclose(found, first.predict(ROWS), rtol=1e-3)
    np.testing.assert_allclose(found, np.exp(5 + ROWS[:, 0]), rtol=0.1)
    np.testing.assert_allclose(np.exp(regressor.model_.predict(ROWS)[:, 0]), regressor.predict(ROWS), rtol=1e-6)
    assert regressor.out_activation_ == "exp"


def test_losses_that_know_what_targets_they_take() -> None:
    with pytest.raises(ValueError, match=r"^the targets of Poisson must be 0 or more, and y holds -7$"):
        DenseRegressor(loss="poisson").fit(X, np.where(np.arange(90) == 3, -7.0, VALUES))
    with pytest.raises(ValueError, match=r"^quantiles are learned with loss='quantile', and loss is 'huber'$"):
        DenseRegressor(loss="huber", quantiles=[0.5]).fit(X, VALUES)
    with pytest.raises(ValueError, match="ascending"):
        DenseRegressor(loss="quantile", quantiles=[0.9, 0.1]).fit(X, VALUES)
    zeros = DenseRegressor(loss="poisson", max_epochs=2).fit(X, np.zeros(90))
    assert np.isfinite(zeros.predict(X)).all()
    regressor = DenseRegressor(loss="quantile", quantiles=[0.2, 0.8], max_epochs=2, warm_start=True).fit(X, VALUES)
    for other in ({"quantiles": [0.1, 0.9]}, {"quantiles": None}, {"loss": "poisson", "quantiles": None}):
        with pytest.raises(ValueError, match="y or loss has not the form that it had before"):
            copy.deepcopy(regressor).set_params(**other).fit(X, VALUES)
    assert regressor.set_params(loss="gaussian", quantiles=None, warm_start=False).fit(X, VALUES).n_outputs_ == 2


def test_going_on_keeps_the_units() -> None:
    for params in ({"loss": "gaussian"}, {"loss": "poisson"}, {"loss": "quantile", "quantiles": [0.2, 0.8]}):
        slowly = {"max_epochs": 5, "batch_size": 90, "learning_rate": 0.001}
        regressor = DenseRegressor(**params, **slowly, random_state=0, warm_start=True).fit(X, VALUES)
        units, loss = (regressor.y_mean_, regressor.y_scale_), regressor.loss_
        regressor.fit(X, VALUES)
        np.testing.assert_allclose((regressor.y_mean_, regressor.y_scale_), units, rtol=1e-12)
        assert regressor.history_["loss"][0] < loss


def test_outputs_in_onnx_are_in_the_units_of_y(tmp_path: Path) -> None:
    pytest.importorskip("ndonnx")
    runtime = pytest.importorskip("onnxruntime")
    from dense_xp.interop import export_onnx

    for params in ({"loss": "gaussian"}, {"loss": "poisson"}, {"loss": "quantile", "quantiles": [0.2, 0.8]}):
        regressor = DenseRegressor(**params, **FAST).fit(X, VALUES)
        export_onnx(regressor, tmp_path / "file.onnx")
        (found,) = runtime.InferenceSession(str(tmp_path / "file.onnx")).run(None, {"X": X})
        np.testing.assert_allclose(found, regressor.model_.predict(X), rtol=1e-6)


# ------------------------------------------------------------------ intervals


def held(interval: Any, y: Any) -> float:
    return float(np.mean((interval[..., 0] <= y) & (y <= interval[..., 1])))


KINDS: list[tuple[dict[str, Any], Any]] = [
    ({}, NOISY),
    ({"loss": "huber"}, NOISY),
    ({"loss": "gaussian"}, NOISY),
    ({"loss": "quantile", "quantiles": QUANTILES}, NOISY),
    ({"loss": "quantile"}, NOISY),
    ({"loss": "poisson"}, COUNTS),
    ({"loss": "gamma"}, COUNTS),
]


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
@pytest.mark.parametrize(("params", "y"), KINDS)
def test_calibrated_intervals_hold_what_they_promise(params: Any, y: Any, coverage: float) -> None:
    """Also where the network learned next to nothing: 1,000 rows to calibrate, 1,500 new ones."""
    for epochs in (1, 20):
        regressor = DenseRegressor(**params, **{**LEARNS, "max_epochs": epochs}).fit(ROWS[:500], y[:500])
        interval = regressor.calibrate(ROWS[500:1500], y[500:1500]).predict_interval(ROWS[1500:], coverage)
        assert interval.shape == (1500, 2)
        assert (interval[:, 0] <= interval[:, 1]).all()
        assert held(interval, y[1500:]) == pytest.approx(coverage, abs=0.045)
    if params.get("loss") in ("gaussian", "poisson") or params.get("quantiles"):  # the width follows the noise
        width, right = interval[:, 1] - interval[:, 0], ROWS[1500:, 0] > 0
        assert width[right].mean() > 1.3 * width[~right].mean()


@pytest.mark.parametrize("params", [{"loss": "gaussian"}, {"loss": "quantile", "quantiles": QUANTILES}])
def test_intervals_by_the_loss_alone(backend: Backend, params: Any) -> None:
    regressor = DenseRegressor(**params, **LEARNS, backend=backend).fit(ROWS, NOISY)
    interval = regressor.predict_interval(ROWS)
    assert held(interval, NOISY) == pytest.approx(0.9, abs=0.03)
    if params["loss"] == "quantile":
        np.testing.assert_array_equal(interval, regressor.predict(ROWS)[:, [0, 2]])
    else:
        mean, log_variance = regressor.predict(ROWS), regressor.model_.predict(ROWS)[:, 1]
        np.testing.assert_allclose(interval.mean(axis=1), mean, rtol=1e-6)
        np.testing.assert_allclose(np.diff(interval)[:, 0] / 2, 1.6448536 * np.exp(0.5 * log_variance), rtol=1e-3)


def test_the_two_quantiles_of_a_coverage() -> None:
    many = [0.05, 0.25, 0.5, 0.75, 0.95]
    regressor = DenseRegressor(loss="quantile", quantiles=many, **LEARNS).fit(ROWS, NOISY)
    found = regressor.predict(ROWS)
    np.testing.assert_array_equal(regressor.predict_interval(ROWS, 0.5), found[:, [1, 3]])
    np.testing.assert_array_equal(regressor.predict_interval(ROWS, 0.9), found[:, [0, 4]])
    with pytest.raises(ValueError, match=r"coverage 0.8: call calibrate.* quantiles=\[0.1, 0.9\]"):
        regressor.predict_interval(ROWS, 0.8)
    assert held(regressor.calibrate(ROWS, NOISY).predict_interval(ROWS, 0.8), NOISY) == pytest.approx(0.8, abs=0.01)


def test_several_targets_have_intervals_of_their_own() -> None:
    both = np.stack([NOISY, -1e6 * NOISY], axis=1)
    regressor = DenseRegressor(**LEARNS).fit(ROWS[:1500], both[:1500]).calibrate(ROWS[1500:], both[1500:])
    interval = regressor.predict_interval(ROWS)
    assert interval.shape == (3000, 2, 2)
    for i in range(2):
        assert held(interval[:, i], both[:, i]) == pytest.approx(0.9, abs=0.02)


def test_the_width_is_the_right_one_of_the_scores() -> None:
    """Of n rows the ⌈(n + 1) coverage⌉-th."""
    regressor = DenseRegressor(**FAST).fit(X, VALUES)
    score = np.sort(np.abs(VALUES[:19] - regressor.predict(X[:19])))
    regressor.calibrate(X[:19], VALUES[:19])
    for coverage, rank in ((0.9, 18), (0.95, 19), (0.5, 10), (0.51, 11), (0.01, 1)):
        low, high = regressor.predict_interval(X, coverage).T
        np.testing.assert_allclose(high - low, 2 * score[rank - 1], rtol=1e-9)
    with pytest.raises(ValueError, match=r"^coverage 0.96 needs at least 24 rows in calibrate, and there were 19$"):
        regressor.predict_interval(X, 0.96)
    for wrong in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match=r"^coverage must be a number, above 0 and below 1, and is"):
            regressor.predict_interval(X, wrong)


def test_what_intervals_need() -> None:
    with pytest.raises(NotFittedError):
        DenseRegressor().predict_interval(X)
    with pytest.raises(NotFittedError):
        DenseRegressor().calibrate(X, VALUES)
    regressor = DenseRegressor(max_epochs=2).fit(X, VALUES)
    with pytest.raises(ValueError, match=r"MeanSquaredError\(\) says nothing .* call calibrate\(X, y\) .*0.05, 0.95"):
        regressor.predict_interval(X)
    with pytest.raises(ValueError, match=r"^y has shape \(89,\) and needs \(90,\)"):
        regressor.calibrate(X, VALUES[:89])
    with pytest.raises(ValueError, match="y contains NaN"):
        regressor.calibrate(X, np.full(90, np.nan))
    before = regressor.calibrate(X, VALUES).predict_interval(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(regressor)).predict_interval(X), before)
    assert regressor.partial_fit(X, VALUES).calibration_ is None
    counts = DenseRegressor(loss="poisson", max_epochs=1).fit(X, np.arange(90) % 2).calibrate(X, np.arange(90) % 2)
    assert (counts.predict_interval(X, 0.98) >= 0).all()


@pytest.mark.parametrize("params", [params for params, _ in KINDS])
def test_intervals_stay_on_the_device(params: Any) -> None:
    torch = pytest.importorskip("torch")
    rows, y = torch.tensor(ROWS), COUNTS
    here = DenseRegressor(**params, **{**LEARNS, "max_epochs": 2}).fit(ROWS, y).calibrate(ROWS, y)
    with config_context(array_api_dispatch=True):
        there = DenseRegressor(**params, **{**LEARNS, "max_epochs": 2}).fit(rows, y).calibrate(rows, torch.tensor(y))
        answer, interval = there.predict(rows), there.predict_interval(rows)
    assert isinstance(interval, torch.Tensor)
    np.testing.assert_allclose(answer.numpy(), here.predict(ROWS), rtol=1e-5)
    np.testing.assert_allclose(interval.numpy(), here.predict_interval(ROWS), rtol=1e-5)
