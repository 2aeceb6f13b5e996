"""A classifier with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from dense_xp.backend import Array, to_numpy
from dense_xp.estimators.base import DenseEstimator
from dense_xp.estimators.task import Task
from dense_xp.learning.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from dense_xp.learning.special import log_softmax, sigmoid, softplus
from dense_xp.training.sequential import Sequential


@dataclass(eq=False, repr=False)
class DenseClassifier(ClassifierMixin, DenseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron for classification, with scikit-learn's interface.

    The last layer has an output for each class. The loss is softmax cross-entropy; where a sample has several labels
    (a matrix of 0 and 1), it is sigmoid cross-entropy.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    activation : str or Layer, or one for each hidden layer, default "relu"
        ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"`` …, ``"linear"`` for none, or a layer such as ``ELU(0.5)``.
    scaling : {"robust"}, optional, default "robust"
        First layer: :class:`~dense_xp.RobustScale`, for features of any size and with outliers; None for data that are
        scaled already.
    n_bins : int, optional
        Encode each feature in at most so many bins, such as 16; see :class:`~dense_xp.PiecewiseLinear`.
    n_members : int, default 1
        How many networks learn side by side, each from its own initial weights. The classifier predicts the mean of
        their probabilities, which early stopping uses too.
    dropout : float, default 0.0
        The share of each hidden layer that is left out in training.
    normalization : {"layer", "batch"}, optional
        Between each hidden layer and its activation; by default none.
    optimizer : str or Optimizer or object with ``update``, default "adam"
        ``"adam"``, ``"sgd"`` …, or for instance ``SGD(0.1, momentum=0.9)``.
    learning_rate : float or Schedule, optional
        By default that of the optimizer; 0.003 for the name ``"adam"``.
    weight_decay : float, optional
        By default that of the optimizer; 0.3 for the name ``"adam"``, where biases do not shrink.
    batch_size : int or "auto", default "auto"
        Samples in one step; ``"auto"`` is a hundredth of all, at least 64 and at most 512.
    max_epochs : int, default 200
        How often to go through the data at most.
    tol : float, default 1e-4
        By how much the loss must fall to count as falling.
    n_iter_no_change : int, default 20
        Training ends when the loss has not fallen for more than so many epochs; None is never.
    early_stopping : bool or "auto", default "auto"
        Whether to hold back some data, stop when the loss on those no longer falls, and go back to the weights
        with which it was lowest. ``"auto"`` does so from 100 samples on, and never in ``partial_fit``.
    validation_fraction : float, default 0.1
        The share that is held back, the same of each class.
    stopping_metric : str, Metric or callable, optional
        What early stopping measures: by default the loss; ``"roc_auc"``, ``"log_loss"`` (the loss), ``"accuracy"``,
        ``"f1"`` or any other metric of :meth:`dense_xp.Sequential.fit`.
    class_weight : dict or "balanced", optional
        How much each class counts; ``"balanced"`` lets all count alike, however many samples they have.
    warm_start : bool, default False
        Whether ``fit`` goes on from the weights of the last ``fit``.
    random_state : int or numpy.random.RandomState, optional
        Source of the initial weights, the order of the samples, dropout and what is held back.
    verbose : bool, default False
        Whether to show a progress bar.
    callbacks : list
        As in :meth:`dense_xp.Sequential.fit`. ``clone``, and so every search, makes copies of them.
    backend : str or Backend, optional
        Where to train: ``"cupy"``, ``"torch:cuda"``, ``"jax"``, ``"auto"`` …. By default the setting in force; else,
        with ``array_api_dispatch``, where X is; else NumPy.
    dtype : {"auto", "float32", "float64"}, default "auto"
        The precision. ``"auto"`` is float32; below 100 samples it is that of X, unless X moves from the host to another
        backend.

    Attributes
    ----------
    classes_ : numpy.ndarray, shape (n_classes,)
        The labels, sorted.
    n_outputs_ : int
        How many numbers the last layer has.
    n_features_in_ : int
        How many features there are.
    feature_names_in_ : array of str
        Their names, if X was a data frame with names.
    model_ : Sequential
        The network: ``dense_xp.save(clf.model_, path)``, ``clf.model_.weights``, ``clf.model_.summary()``.
    history_ : History
        What each epoch of the last ``fit`` measured.
    n_iter_ : int
        How many epochs the last ``fit`` had.
    loss_ : float
        The loss over the training data in the last epoch, or in the one whose weights were restored.
    best_loss_ : float or None
        The least loss, over all fits that continued one another; None with early stopping.
    t_ : int
        How many samples these fits trained on.
    n_layers_ : int
        How many layers there are, the input counted as one.
    out_activation_ : str
        Turns outputs into probabilities: ``"softmax"``, or ``"logistic"`` for several labels.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = make_pipeline(StandardScaler(), DenseClassifier(backend="numpy", random_state=0))
    >>> bool(classifier.fit(X, y).score(X, y) > 0.95)
    True
    """

    _: KW_ONLY
    class_weight: Mapping[Any, float] | str | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DenseEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    @property
    def model_(self) -> Sequential:
        """The network; it returns logits."""
        return self.network_

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Train for one epoch on these data, from the current weights and optimizer state.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`~dense_xp.estimators.base.DenseEstimator.fit`.
        classes : array-like, optional
            All labels that will ever come; needed in the first call, unless a sample has several labels.

        Returns
        -------
        self
            The same estimator.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all data at once: give partial_fit a dict or sample_weight")
        goes_on = hasattr(self, "network_")
        if classes is None:
            classes = getattr(self, "classes_", ())
        return self._learn(X, y, sample_weight, goes_on=goes_on, classes=classes)

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> Task:
        check_classification_targets(y)
        if type_of_target(y).startswith("multilabel"):
            if self.class_weight is not None:
                raise ValueError("class_weight is for one label a sample; where there are several, pass sample_weight")
            y = y.toarray() if hasattr(y, "toarray") else y
            loss: Loss = SigmoidCrossEntropy()
            known, target = np.arange(y.shape[1]), y.astype(np.int64)
        else:
            y = column_or_1d(y, warn=True)
            known = np.unique(y if classes is None else classes)
            if not len(known):
                raise ValueError("classes must be passed on the first call to partial_fit: all labels that will come")
            if goes_on and not np.array_equal(known, self.classes_):
                raise ValueError(
                    f"the classes are {known.tolist()}, and the model that is to learn more has "
                    f"{self.classes_.tolist()}: pass the same, or start anew with warm_start=False and fit"
                )
            if unknown := sorted(set(np.unique(y).tolist()) - set(known.tolist())):
                raise ValueError(f"y holds the labels {unknown}, and classes_ are {known.tolist()}")
            loss, target = SoftmaxCrossEntropy(), np.searchsorted(known, y)
            weight = self._weighted_by_class(target, weight, known)
        learned = {"classes_": known, "n_outputs_": len(known), "_multilabel": target.ndim == 2}
        learned["out_activation_"] = "logistic" if target.ndim == 2 else "softmax"
        if goes_on and any(getattr(self, name) != learned[name] for name in ("n_outputs_", "_multilabel")):
            raise ValueError(f"y has not the form that it had before, with {self.n_outputs_} outputs")
        return Task(target, weight, loss, learned)

    def _weighted_by_class(self, codes: Any, weight: Any, classes: Any) -> Any:
        wanted: Any = self.class_weight
        if wanted is None:
            return weight
        if wanted == "balanced":  # scikit-learn's formula, in which each sample counts by its weight
            mass = np.bincount(codes, weights=weight, minlength=len(classes))
            each = mass.sum() / (len(classes) * np.where(mass > 0, mass, 1.0))
        else:
            each = compute_class_weight(dict(wanted), classes=classes, y=classes)
        return each[codes] if weight is None else each[codes] * weight

    def predict(self, X: Any) -> Array:
        """Return the most likely label of each sample, or 0 and 1 for each of several labels.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_classes)
            On the device if X is there and labels are numbers.
        """
        outputs = self._outputs(X, "predict")
        xp, backend = array_namespace(outputs), self._model_backend
        with backend.scope():
            on_host = isinstance(outputs, np.ndarray)
            if self._multilabel:
                no, yes = np.asarray([0, 1]) if on_host else backend.asarray([0, 1])
                return xp.where(outputs > 0, yes, no)
            codes = xp.argmax(outputs, axis=-1)
            if on_host or self.classes_.dtype.kind not in "biuf":
                return self.classes_[to_numpy(codes)]
            return xp.take(backend.asarray(self.classes_), codes, axis=0)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X
            As in :meth:`predict`.

        Returns
        -------
        array, shape (n_samples, n_classes)
            In the order of ``classes_``. With several labels a sample, each column is a probability of its own.
        """
        outputs = self._outputs(X, "predict_proba")
        with self._model_backend.scope():
            return sigmoid(outputs) if self._multilabel else log_softmax(outputs)[1]

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of :meth:`predict_proba`, exact also where that is next to 0 or 1."""
        outputs = self._outputs(X, "predict_log_proba")
        with self._model_backend.scope():
            return -softplus(-outputs) if self._multilabel else log_softmax(outputs)[0]

    def decision_function(self, X: Any) -> Array:
        """Return the logits.

        Parameters
        ----------
        X
            As in :meth:`predict`.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_classes)
            For two classes the difference of their logits, positive for ``classes_[1]``.
        """
        outputs = self._outputs(X, "decision_function")
        if self._multilabel or len(self.classes_) != 2:
            return outputs
        with self._model_backend.scope():
            return outputs[:, 1] - outputs[:, 0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
