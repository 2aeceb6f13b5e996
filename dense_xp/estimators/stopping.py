"""When a fit stops: which rows are watched, and what is measured on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from dense_xp.estimators.arrays import checked_weight, on_host, taken
from dense_xp.estimators.task import Task
from dense_xp.learning.metric import MetricLike
from dense_xp.learning.metrics import better, named_metrics
from dense_xp.training.callbacks import EarlyStopping

_SKLEARNS_NAMES = {"log_loss": "loss", "roc_auc": "auc"}


def stopping_metric(estimator: Any, watched: Any) -> MetricLike | None:
    """Return the metric for early stopping; None for the loss.

    Parameters
    ----------
    estimator : DenseEstimator
        With the parameters of the user.
    watched : tuple or None
        The user's validation rows, targets and weights.

    Raises
    ------
    ValueError
        If there are rows or a metric, but no early stopping; if X_val or y_val is missing; or if the metric is unknown,
        or whether large values of it are good.
    """
    if watched is not None and not estimator.early_stopping:
        raise ValueError("X_val and y_val are watched for early stopping: set early_stopping=True, or leave them out")
    if watched is not None and any(given is None for given in watched[:2]):
        raise ValueError("rows to watch need both X_val and y_val")
    metric: MetricLike | None = estimator.stopping_metric
    if metric is None:
        return None
    if not estimator.early_stopping:
        raise ValueError(
            "stopping_metric is measured on rows that are held back: set early_stopping=True, or leave it None"
        )
    if isinstance(metric, str):
        metric = _SKLEARNS_NAMES.get(metric, metric)
    if metric == "loss":
        return None
    named = named_metrics([metric])
    if not better(next(iter(named)), named):
        raise ValueError(
            f"nothing says whether large values of stopping_metric={metric!r} are good: give it an attribute "
            "greater_is_better"
        )
    return metric


def rows_to_watch(
    estimator: Any, given: tuple[Any, Any, Any], make_task: Callable[..., Task], task: Task, accepted: dict[str, Any]
) -> Any:
    """Return the user's validation rows, targets and weights in the form of the training data.

    Parameters
    ----------
    estimator : DenseEstimator
        It has validated the training rows.
    given : tuple
        Rows, targets and weights.
    make_task : callable
        Makes the task of some targets; its first argument is the estimator.
    task : Task
        That of the training targets.
    accepted : dict
        What scikit-learn's validation accepts.
    """
    X, y, weight = given
    numbers = isinstance(estimator, RegressorMixin)
    X, y = validate_data(estimator, X, on_host(y), reset=False, multi_output=True, y_numeric=numbers, **accepted)
    learned = object.__new__(type(estimator))  # a copy: the estimator stays unchanged until all went well
    learned.__dict__.update(estimator.__dict__, **task.learned)
    own = make_task(learned, y, checked_weight(weight, X.shape[0]), True, task.learned.get("classes_"))
    return X, own.target, own.weight


def held_back(estimator: Any, data: tuple[Any, ...], y: Any) -> Any:
    """Return the training data and the validation data."""
    # rows of weight 0 say nothing about when to stop
    counted = np.arange(len(y)) if data[2] is None else np.flatnonzero(data[2])
    labels = y[counted] if isinstance(estimator, ClassifierMixin) and y.ndim == 1 else None
    if estimator.early_stopping == "auto" and labels is not None:
        counts, held = np.unique(labels, return_counts=True)[1], estimator.validation_fraction * len(labels)
        if counts.min() < 2 or min(held, len(labels) - held - 1) < len(counts):
            labels = None  # not every class can be on both sides
    learn, watch = train_test_split(
        counted,
        test_size=estimator.validation_fraction,
        random_state=check_random_state(estimator.random_state),
        stratify=labels,
    )
    learn = np.concatenate([learn, np.setdiff1d(np.arange(len(y)), counted)])
    return tuple(tuple(None if values is None else taken(values, rows) for values in data) for rows in (learn, watch))


def stopping(estimator: Any, epochs: int, metric: MetricLike | None, stops: bool) -> EarlyStopping:
    """Return the callback that ends a fit; it watches the validation rows if `stops`, else the training loss."""
    name = "loss" if metric is None else next(iter(named_metrics([metric])))
    return EarlyStopping(
        f"val_{name}" if stops else "loss",
        patience=epochs if estimator.n_iter_no_change is None else estimator.n_iter_no_change,
        min_delta=estimator.tol,
        restore_best_weights=stops,
    )
