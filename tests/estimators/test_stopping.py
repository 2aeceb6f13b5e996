"""When an estimator stops: rows to watch that the user gives, and what is measured on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy import sparse
from sklearn.metrics import log_loss, r2_score, roc_auc_score

from dense_xp.estimators import DenseClassifier, DenseRegressor
from dense_xp.learning.metrics import F1

RNG = np.random.default_rng(0)
X = RNG.normal(size=(160, 4))
NOISY = np.where(X[:, 0] + RNG.normal(size=160) > 0, "yes", "no")
VALUES = 100.0 + 5.0 * X[:, 0] + RNG.normal(size=160)
X_VAL = RNG.normal(size=(60, 4))
Y_VAL = np.where(X_VAL[:, 0] + RNG.normal(size=60) > 0, "yes", "no")
VALUES_VAL = 100.0 + 5.0 * X_VAL[:, 0] + RNG.normal(size=60)
FAST: dict[str, Any] = {
    "hidden_layer_sizes": 16, "learning_rate": 0.02, "max_epochs": 60, "n_iter_no_change": 5, "random_state": 0,
    "early_stopping": True, "tol": 0.0, "backend": "numpy",
}  # fmt: skip


def test_the_rows_of_the_user_are_watched_and_all_others_learned_from() -> None:
    classifier = DenseClassifier(**FAST).fit(X, NOISY, X_val=X_VAL, y_val=Y_VAL)
    history = classifier.history_
    assert history.samples == 160 * history.epochs
    assert history.best_epoch < history.epochs < 60
    best = min(history["val_loss"])
    assert log_loss(Y_VAL, classifier.predict_proba(X_VAL)) == pytest.approx(best, rel=1e-6)


def test_each_counts_by_its_weight() -> None:
    weight = RNG.uniform(0.5, 2.0, size=60)
    classifier = DenseClassifier(**FAST).fit(X, NOISY, X_val=X_VAL, y_val=Y_VAL, sample_weight_val=weight)
    found = log_loss(Y_VAL, classifier.predict_proba(X_VAL), sample_weight=weight)
    assert found == pytest.approx(min(classifier.history_["val_loss"]), rel=1e-6)


def test_targets_are_watched_in_the_units_that_are_learned() -> None:
    regressor = DenseRegressor(**FAST).fit(X, VALUES, X_val=X_VAL, y_val=VALUES_VAL)
    error = np.mean((regressor.predict(X_VAL) - VALUES_VAL) ** 2) / np.var(VALUES)
    assert error == pytest.approx(min(regressor.history_["val_loss"]), rel=1e-6)


def test_by_the_area_under_the_curve() -> None:
    classifier = DenseClassifier(**FAST, stopping_metric="roc_auc").fit(X, NOISY, X_val=X_VAL, y_val=Y_VAL)
    area = roc_auc_score(Y_VAL == "yes", classifier.predict_proba(X_VAL)[:, 1])
    assert area == pytest.approx(max(classifier.history_["val_auc"]), rel=1e-9)
    assert classifier.history_.best_epoch == int(np.argmax(classifier.history_["val_auc"])) + 1


@pytest.mark.parametrize("metric", ["accuracy", "f1", F1(), "log_loss", None])
def test_by_other_measures_of_classes(metric: Any) -> None:
    history = DenseClassifier(**FAST, stopping_metric=metric).fit(X, NOISY).history_
    name = {"log_loss": "loss", None: "loss"}.get(metric, "f1") if metric != "accuracy" else metric
    column = history[f"val_{name}"]
    assert column[history.best_epoch - 1] == (min if name == "loss" else max)(column)


def test_by_other_measures_of_numbers() -> None:
    regressor = DenseRegressor(**FAST, stopping_metric="r2").fit(X, VALUES, X_val=X_VAL, y_val=VALUES_VAL)
    assert r2_score(VALUES_VAL, regressor.predict(X_VAL)) == pytest.approx(max(regressor.history_["val_r2"]), rel=1e-6)


def test_several_labels_and_sparse_rows_can_be_watched() -> None:
    many, many_val = (np.stack([rows[:, 0] > 0, rows[:, 1] > 0], axis=1) for rows in (X, X_VAL))
    one = DenseClassifier(**FAST).fit(X, many, X_val=X_VAL, y_val=many_val)
    other = DenseClassifier(**FAST).fit(sparse.csr_array(X), many, X_val=sparse.csr_array(X_VAL), y_val=many_val)
    np.testing.assert_allclose(one.history_["val_loss"], other.history_["val_loss"], rtol=1e-9)


def test_what_does_not_fit_is_refused_and_nothing_is_learned() -> None:
    classifier = DenseClassifier(**FAST)
    for message, given in {
        "both X_val and y_val": {"X_val": X_VAL},
        "labels \\['perhaps'\\]": {"X_val": X_VAL, "y_val": np.where(np.arange(60) == 0, "perhaps", Y_VAL)},
        "features": {"X_val": X_VAL[:, :3], "y_val": Y_VAL},
        "inconsistent numbers": {"X_val": X_VAL, "y_val": Y_VAL[:5]},
        "sample_weight": {"X_val": X_VAL, "y_val": Y_VAL, "sample_weight_val": np.ones(3)},
    }.items():
        with pytest.raises(ValueError, match=message):
            classifier.fit(X, NOISY, **given)
        assert not hasattr(classifier, "network_")
    classifier.set_params(early_stopping=False)
    with pytest.raises(ValueError, match="set early_stopping=True"):
        classifier.fit(X, NOISY, X_val=X_VAL, y_val=Y_VAL)
    with pytest.raises(ValueError, match=r"stopping_metric is measured .* early_stopping=True"):
        classifier.set_params(stopping_metric="roc_auc").fit(X, NOISY)
    classifier.set_params(early_stopping=True)
    with pytest.raises(ValueError, match="nonsense"):
        classifier.set_params(stopping_metric="nonsense").fit(X, NOISY)
