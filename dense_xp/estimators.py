"""Perceptrons as scikit-learn's estimators: trained on any backend, and used also where that is missing.

They are thin: scikit-learn validates, :class:`~dense_xp.Sequential` learns. What they add are scikit-learn's rules
(what is fixed in ``__init__``, what ``fit`` leaves behind), labels of any kind, and pickles that know no device.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from dense_xp.backend import Array, Backend, backend_of, from_spec, get_backend, resolve, to_numpy
from dense_xp.layers.activations import get_activation
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.learning.losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy, get_loss
from dense_xp.learning.optimizers import ForeignOptimizer, Optimizer, as_optimizer
from dense_xp.learning.schedules import Schedule
from dense_xp.learning.special import log_softmax, sigmoid, softplus
from dense_xp.training.callbacks import EarlyStopping
from dense_xp.training.history import History
from dense_xp.training.sequential import Sequential

try:
    from sklearn import get_config
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_array, check_random_state, column_or_1d
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        'dense_xp.estimators needs scikit-learn, 1.8 or later: run  pip install "dense-xp[sklearn]"'
    ) from error

_NORMALIZATIONS: dict[str, type[Layer]] = {"layer": LayerNorm, "batch": BatchNorm}
_START = "glorot_uniform"  # as in scikit-learn's perceptrons


@dataclasses.dataclass
class _Task:
    """What a network shall learn.

    Attributes
    ----------
    target, weight : numpy.ndarray
        In the form and the units in which it trains.
    loss : Loss
        What is minimised.
    learned : dict
        The attributes that ``fit`` sets once all went well.
    scaling : tuple of arrays, or None
        Mean and scale of the targets; the outputs that it learns are (target - mean) / scale.
    """

    target: Any
    weight: Any
    loss: Loss
    learned: dict[str, Any]
    scaling: tuple[Any, Any] | None = None


class DenseEstimator(BaseEstimator):  # type: ignore[misc]
    """Base class of the two: what they have in common."""

    model_: Sequential
    history_: History
    n_iter_: int
    loss_: float
    n_outputs_: int
    _shape: str  # of the hidden layers
    _on_device: bool  # whether X was, and not only the model

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [str, Layer, "array-like"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "normalization": [StrOptions({"layer", "batch"}), None],
        "optimizer": "no_validation",  # as_optimizer says more
        "learning_rate": [Interval(Real, 0, None, closed="neither"), Schedule, None],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callbacks": [list, tuple],
        "backend": [str, Backend, None],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int],
        activation: str | Layer | Sequence[str | Layer],
        dropout: float,
        normalization: str | None,
        optimizer: Any,
        learning_rate: float | Schedule | None,
        weight_decay: float | None,
        batch_size: int | str,
        max_epochs: int,
        tol: float,
        n_iter_no_change: int | None,
        early_stopping: bool,
        validation_fraction: float,
        warm_start: bool,
        random_state: Any,
        verbose: bool | int,
        callbacks: Sequence[Any],
        backend: str | Backend | None,
        dtype: str,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.normalization = normalization
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks
        self.backend = backend
        self.dtype = dtype

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> _Task:
        """Turn validated targets into what a network can learn; nothing is stored yet."""
        raise NotImplementedError

    # ------------------------------------------------------------------ learning

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Learn from data.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            Rows of a sparse matrix are made dense batch by batch. With scikit-learn's ``array_api_dispatch``,
            an array on a device stays there.
        y : array-like, shape (n_samples,) or (n_samples, n_outputs)
            What is to be predicted.
        sample_weight : array-like, shape (n_samples,), optional
            How much each sample counts; not negative.

        Returns
        -------
        self
            With the attributes that end in ``_``.

        Raises
        ------
        ValueError
            If a parameter or the data cannot be used.
        DivergenceError
            If the loss becomes NaN or infinite.
        """
        goes_on = self.warm_start and hasattr(self, "model_")
        return self._learn(X, y, sample_weight, goes_on=goes_on, epochs=self.max_epochs)

    def _learn(
        self, X: Any, y: Any, sample_weight: Any, *, goes_on: bool, epochs: int | None = None, classes: Any = None
    ) -> Self:
        """Train; without `epochs`, go through the data once with the optimizer as it stands."""
        self._validate_params()
        if epochs is None and self.early_stopping:
            raise ValueError("partial_fit sees a part of the data and cannot stop early: set early_stopping=False")
        optimizer, layers = self._optimizer(), self._hidden_layers()
        shape = repr(layers)
        if goes_on and shape != self._shape:
            raise ValueError(
                "the hidden layers are not those of the model that is to learn more: "
                "set warm_start=False and call fit to start anew"
            )
        backend, wanted = self._place(X, goes_on)
        accepted = self._accepted(X, wanted)
        numbers = isinstance(self, RegressorMixin)
        X, y = validate_data(self, X, _on_host(y), reset=not goes_on, multi_output=True, y_numeric=numbers, **accepted)
        task = self._task(y, _checked_weight(sample_weight, X.shape[0]), goes_on, classes)
        dtype = wanted or ("float64" if "float64" in str(X.dtype) else "float32")
        data, validation = (X, task.target, task.weight), None
        if self.early_stopping:
            data, validation = self._split(data, y)
        if goes_on:
            model = self.model_
        else:
            layers.append(Dense(task.learned["n_outputs_"], kernel_initializer=_START))
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            model = Sequential(layers, dtype=dtype, backend=backend, rng=seed)
        n = data[0].shape[0]
        with _in_units_of_training(model, task.scaling):
            history = model.fit(
                data[0],
                data[1],
                epochs or 1,
                min(200, n) if self.batch_size == "auto" else int(self.batch_size),
                loss=task.loss,
                optimizer=None if goes_on and epochs is None else optimizer,
                validation_data=validation,
                sample_weight=data[2],
                callbacks=[*self.callbacks, *([] if epochs is None else [self._stopping(epochs)])],
                verbose=bool(self.verbose),
            )
        for name, value in task.learned.items():
            setattr(self, name, value)
        self.model_, self.history_, self.n_iter_ = model, history, history.epochs
        self.loss_ = history["loss"][(history.best_epoch or history.epochs) - 1]
        self._shape, self._on_device = shape, _home(X).name != "numpy"
        return self

    def _stopping(self, epochs: int) -> EarlyStopping:
        return EarlyStopping(
            "val_loss" if self.early_stopping else "loss",
            patience=epochs if self.n_iter_no_change is None else self.n_iter_no_change,
            min_delta=self.tol,
            restore_best_weights=self.early_stopping,
        )

    def _hidden_layers(self) -> list[Layer]:
        given: Any = self.hidden_layer_sizes
        sizes: list[Any] = [given] if isinstance(given, Integral) else list(given)
        activations = self.activation
        if isinstance(activations, str | Layer):
            activations = [activations] * len(sizes)
        if len(activations) != len(sizes):
            raise ValueError(
                f"activation has {len(activations)} entries and hidden_layer_sizes {len(sizes)}: "
                "give one activation for all, or one for each"
            )
        layers: list[Layer] = []
        for size, activation in zip(sizes, map(copy.deepcopy, activations), strict=True):
            if self.normalization is None:
                layers.append(Dense(size, activation=activation, kernel_initializer=_START))
            else:  # between the affine map and the activation
                own = get_activation(activation)
                layers += [Dense(size, kernel_initializer=_START), _NORMALIZATIONS[self.normalization]()]
                layers += [] if own is None else [own]
            if self.dropout:
                layers.append(Dropout(float(self.dropout)))
        return layers

    def _optimizer(self) -> Optimizer:
        optimizer = as_optimizer(self.optimizer)
        if optimizer is None:
            raise ValueError("optimizer must be a name such as 'adam' or an optimizer, and is None")
        given: dict[str, Any] = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes and isinstance(optimizer, ForeignOptimizer):
            raise ValueError(f"{self.optimizer!r} has settings of its own: leave {' and '.join(changes)} at None")
        return dataclasses.replace(optimizer, **changes) if changes else optimizer

    def _place(self, X: Any, goes_on: bool) -> tuple[Backend, str | None]:
        """Return where to train, and in which dtype; None is that of the data."""
        if goes_on:
            return self._model_backend, self.model_.dtype
        home = _home(X)
        backend = resolve(self.backend, *([X] if _dispatches(X) else []))
        if self.dtype != "auto":
            return backend, self.dtype
        # data that have to travel do so as float32, in which devices are fast
        return backend, None if backend == home else "float32"

    def _accepted(self, X: Any, dtype: str | None) -> dict[str, Any]:
        """Return what scikit-learn's validation shall let through."""
        on_device = _home(X).name != "numpy"
        xp = array_namespace(X) if on_device else np
        floats = (xp.float32, xp.float64)
        # the first is that of numbers that are neither: float64 where scikit-learn has it so
        wide = dtype == "float64" or (dtype is None and not on_device)
        return {"accept_sparse": "csr", "dtype": floats[::-1] if wide else floats}

    def _split(self, data: tuple[Any, ...], y: Any) -> Any:
        """Return the data to learn from, and those to watch."""
        parts = train_test_split(
            np.arange(len(y)),
            test_size=self.validation_fraction,
            random_state=check_random_state(self.random_state),
            stratify=y if isinstance(self, ClassifierMixin) and y.ndim == 1 else None,
        )
        return tuple(tuple(None if values is None else _taken(values, rows) for values in data) for rows in parts)

    # ------------------------------------------------------------------ using

    @property
    def _model_backend(self) -> Backend:
        assert self.model_.backend is not None
        return self.model_.backend

    def _outputs(self, X: Any, method: str) -> Array:
        """Return what the network says, on the host or on the device, wherever X is."""
        check_is_fitted(self, "model_")
        model, home = self.model_, _home(X)
        fed = home.name == "numpy" and not (self._on_device and get_config()["array_api_dispatch"])
        if home != model.backend and not fed:
            raise ValueError(
                f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and device as the "
                f"model: X is on {home}, and the model on {model.backend}. Move the model with  "
                f"estimator.to({str(home)!r})"
            )
        X = validate_data(self, X, reset=False, **self._accepted(X, model.dtype))
        return model.predict(X)

    def to(self, backend: str | Backend) -> Self:
        """Move the trained model to another backend.

        Parameters
        ----------
        backend : str or Backend
            Where to; the parameter ``backend`` of the next ``fit`` stays as it is.

        Returns
        -------
        self
            The same estimator.
        """
        check_is_fitted(self, "model_")
        self.model_.to(backend)
        return self

    # ------------------------------------------------------------------ pickles

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if isinstance(state["backend"], Backend):
            state["backend"] = state["backend"].spec
        if "model_" in state:
            model = state["model_"]
            state["_home"] = model.backend.spec
            # a copy in which NumPy stands wherever that backend stood: no device is needed to read it
            numpy = get_backend("numpy")
            state["model_"] = copy.deepcopy(model, {id(model.backend): numpy}).to(numpy)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        home = state.pop("_home", "numpy")
        super().__setstate__(state)
        if home == "numpy":
            return
        try:
            self.to(from_spec(home))
        except Exception as error:  # whatever is wrong with the device, all that is needed is here
            self.to("numpy")
            warnings.warn(
                f"this {type(self).__name__} was trained on {home}, which cannot be used here ({error}); "
                "it computes on NumPy",
                stacklevel=2,
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags


class DenseClassifier(ClassifierMixin, DenseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron that tells classes apart, with scikit-learn's interface.

    The last layer has an output for each class and learns by softmax and cross-entropy; where a sample has several
    labels (a matrix of 0 and 1), it learns by a sigmoid for each.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    activation : str or Layer, or one for each hidden layer, default "relu"
        ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"`` …, ``"linear"`` for none, or a layer such as ``ELU(0.5)``.
    dropout : float, default 0.0
        The share of each hidden layer that is left out in training.
    normalization : {"layer", "batch"}, optional
        What stands between each hidden layer and its activation.
    optimizer : str or Optimizer or object with ``update``, default "adam"
        ``"adam"``, ``"sgd"`` …, or for instance ``SGD(0.1, momentum=0.9)``.
    learning_rate : float or Schedule, optional
        In place of the optimizer's own: 0.001 for Adam.
    weight_decay : float, optional
        In place of the optimizer's own: 0 for most.
    batch_size : int or "auto", default "auto"
        Samples in one step; ``"auto"`` is ``min(200, n_samples)``.
    max_epochs : int, default 200
        How often to go through the data at most.
    tol : float, default 1e-4
        By how much the loss must fall to count as falling.
    n_iter_no_change : int, default 20
        Training ends when the loss has not fallen for more than so many epochs; None is never.
    early_stopping : bool, default False
        Whether to hold back some data, stop when the loss on those no longer falls, and go back to the weights
        with which it was lowest.
    validation_fraction : float, default 0.1
        The share that is held back; of each class alike.
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
        In which precision. ``"auto"`` is that of X, and float32 where X travels from the host to another backend.

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
        How many epochs that had.
    loss_ : float
        The loss over the training data in the last epoch, or in the one whose weights were brought back.

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

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DenseEstimator._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        activation: str | Layer | Sequence[str | Layer] = "relu",
        dropout: float = 0.0,
        normalization: str | None = None,
        optimizer: Any = "adam",
        learning_rate: float | Schedule | None = None,
        weight_decay: float | None = None,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        tol: float = 1e-4,
        n_iter_no_change: int | None = 20,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: Mapping[Any, float] | str | None = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool | int = False,
        callbacks: Sequence[Any] = (),
        backend: str | Backend | None = None,
        dtype: str = "auto",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            dropout=dropout,
            normalization=normalization,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_epochs=max_epochs,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
            callbacks=callbacks,
            backend=backend,
            dtype=dtype,
        )
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Go once through these data, and keep what was learned before, the optimizer's state included.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`DenseEstimator.fit`.
        classes : array-like, optional
            All labels that will ever come; needed in the first call, unless a sample has several labels.

        Returns
        -------
        self
            The same estimator.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all data at once: give partial_fit a dict or sample_weight")
        goes_on = hasattr(self, "model_")
        if not goes_on and classes is None:
            classes = ()
        return self._learn(X, y, sample_weight, goes_on=goes_on, classes=classes)

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> _Task:
        check_classification_targets(y)
        if type_of_target(y).startswith("multilabel"):
            if self.class_weight is not None:
                raise ValueError("class_weight is for one label a sample; where there are several, pass sample_weight")
            y = y.toarray() if hasattr(y, "toarray") else y
            loss: Loss = SigmoidCrossEntropy()
            known, target = np.arange(y.shape[1]), y.astype(np.int64)
        else:
            y = column_or_1d(y, warn=True)
            known = self.classes_ if goes_on else np.unique(y if classes is None else classes)
            if not len(known):
                raise ValueError("classes must be passed on the first call to partial_fit: all labels that will come")
            if unknown := sorted(set(np.unique(y).tolist()) - set(known.tolist())):
                raise ValueError(f"y holds the labels {unknown}, and classes_ are {known.tolist()}")
            loss, target = SoftmaxCrossEntropy(), np.searchsorted(known, y)
            weight = self._weighted_by_class(target, weight, known)
        learned = {"classes_": known, "n_outputs_": len(known), "_multilabel": target.ndim == 2}
        if goes_on and any(getattr(self, name) != learned[name] for name in ("n_outputs_", "_multilabel")):
            raise ValueError(f"y has not the form that it had before, with {self.n_outputs_} outputs")
        return _Task(target, weight, loss, learned)

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
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

        Returns
        -------
        array, shape (n_samples, n_classes)
            In the order of ``classes_``. With several labels a sample, each column is a probability of its own.
        """
        outputs = self._outputs(X, "predict_proba")
        with self._model_backend.scope():
            return sigmoid(outputs) if self._multilabel else log_softmax(outputs)[1]

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of :meth:`predict_proba`, exact also where that is next to 0 or 1.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

        Returns
        -------
        array, shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        outputs = self._outputs(X, "predict_log_proba")
        with self._model_backend.scope():
            return -softplus(-outputs) if self._multilabel else log_softmax(outputs)[0]

    def decision_function(self, X: Any) -> Array:
        """Return the logits: what the last layer says.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

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


class DenseRegressor(RegressorMixin, DenseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron that predicts numbers, with scikit-learn's interface.

    It learns targets that are brought to mean 0 and variance 1, so that learning rate and `tol` mean the same
    whatever their units are. When training ends, the scale goes into the weights of the last layer: ``model_``
    predicts in the units of y.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    loss : str or Loss, default "mean_squared_error"
        What is minimised: also ``"mean_absolute_error"``, ``Huber(1.0)`` …, measured in units of the scaled targets.
    activation : str or Layer, or one for each hidden layer, default "relu"
        ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"`` …, ``"linear"`` for none, or a layer such as ``ELU(0.5)``.
    dropout : float, default 0.0
        The share of each hidden layer that is left out in training.
    normalization : {"layer", "batch"}, optional
        What stands between each hidden layer and its activation.
    optimizer : str or Optimizer or object with ``update``, default "adam"
        ``"adam"``, ``"sgd"`` …, or for instance ``SGD(0.1, momentum=0.9)``.
    learning_rate : float or Schedule, optional
        In place of the optimizer's own: 0.001 for Adam.
    weight_decay : float, optional
        In place of the optimizer's own: 0 for most.
    batch_size : int or "auto", default "auto"
        Samples in one step; ``"auto"`` is ``min(200, n_samples)``.
    max_epochs : int, default 200
        How often to go through the data at most.
    tol : float, default 1e-4
        By how much the loss must fall to count as falling.
    n_iter_no_change : int, default 20
        Training ends when the loss has not fallen for more than so many epochs; None is never.
    early_stopping : bool, default False
        Whether to hold back some data, stop when the loss on those no longer falls, and go back to the weights
        with which it was lowest.
    validation_fraction : float, default 0.1
        The share that is held back.
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
        In which precision. ``"auto"`` is that of X, and float32 where X travels from the host to another backend.

    Attributes
    ----------
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
        How many epochs that had.
    loss_ : float
        The loss over the training data in the last epoch, or in the one whose weights were brought back.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> regressor = DenseRegressor(backend="numpy", max_epochs=500, random_state=0).fit(X, 50 + 10 * X[:, 0])
    >>> bool(abs(regressor.predict([[0.5]])[0] - 55) < 0.5)
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DenseEstimator._parameter_constraints,
        "loss": [str, Loss],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        *,
        loss: str | Loss = "mean_squared_error",
        activation: str | Layer | Sequence[str | Layer] = "relu",
        dropout: float = 0.0,
        normalization: str | None = None,
        optimizer: Any = "adam",
        learning_rate: float | Schedule | None = None,
        weight_decay: float | None = None,
        batch_size: int | str = "auto",
        max_epochs: int = 200,
        tol: float = 1e-4,
        n_iter_no_change: int | None = 20,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool | int = False,
        callbacks: Sequence[Any] = (),
        backend: str | Backend | None = None,
        dtype: str = "auto",
    ) -> None:
        super().__init__(
            hidden_layer_sizes=hidden_layer_sizes,
            activation=activation,
            dropout=dropout,
            normalization=normalization,
            optimizer=optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            batch_size=batch_size,
            max_epochs=max_epochs,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
            callbacks=callbacks,
            backend=backend,
            dtype=dtype,
        )
        self.loss = loss

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go once through these data, and keep what was learned before, the optimizer's state included.

        Mean and scale of the targets are those of the first call.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`DenseEstimator.fit`.

        Returns
        -------
        self
            The same estimator.
        """
        return self._learn(X, y, sample_weight, goes_on=hasattr(self, "model_"))

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> _Task:
        rows = y.astype(np.float64).reshape(len(y), -1)
        learned = {"n_outputs_": rows.shape[1], "_one_output": y.ndim == 1}
        if goes_on:
            if any(getattr(self, name) != value for name, value in learned.items()):
                raise ValueError(f"y has not the form that it had before, with {self.n_outputs_} outputs")
            mean, scale = map(np.asarray, self._scaling)
        else:
            mean = np.average(rows, axis=0, weights=weight)
            scale = np.sqrt(np.average(np.square(rows - mean), axis=0, weights=weight))
            scale[scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)] = 1.0  # a constant
        learned["_scaling"] = mean.tolist(), scale.tolist()  # plain numbers know no device
        return _Task((rows - mean) / scale, weight, get_loss(self.loss), learned, (mean, scale))

    def predict(self, X: Any) -> Array:
        """Return the expected target of each sample.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_outputs)
            As y was in ``fit``; on the device if X is there.
        """
        outputs = self._outputs(X, "predict")
        with self._model_backend.scope():
            return outputs[:, 0] if self._one_output else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


# ------------------------------------------------------------------------------------- data


def _dispatches(X: Any) -> bool:
    """Whether scikit-learn leaves X in its own library."""
    return bool(get_config()["array_api_dispatch"]) and is_array_api_obj(X)


def _home(X: Any) -> Backend:
    """Return where X is, once scikit-learn has read it."""
    return (backend_of(X) if _dispatches(X) else None) or get_backend("numpy")


def _on_host(y: Any) -> Any:
    return to_numpy(y) if is_array_api_obj(y) else y


def _checked_weight(weight: Any, n: int) -> Any:
    if weight is None:
        return None
    if isinstance(weight, Real):
        return np.full(n, float(weight))
    weight = check_array(_on_host(weight), ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n,):
        raise ValueError(f"sample_weight has shape {weight.shape} and needs {(n,)}: one number for each sample")
    if (weight < 0).any() or not weight.any():
        raise ValueError("sample_weight must not be negative, nor zero for every sample")
    return weight


def _taken(data: Any, rows: Any) -> Any:
    """Return some rows, wherever they lie."""
    backend = backend_of(data)
    if backend is None or backend.name == "numpy":
        return data[rows]
    with backend.scope():
        return backend.xp.take(data, backend.asarray(rows), axis=0)


# ------------------------------------------------------------------------------------- units


@contextmanager
def _in_units_of_training(model: Sequential, scaling: tuple[Any, Any] | None) -> Iterator[None]:
    """Bring the last layer from the units of the targets to those in which it trains, and in the end back."""
    if scaling is None:
        yield
        return
    mean, scale = scaling
    _rescale(model, 1.0 / scale, -mean / scale)
    try:
        yield
    finally:
        _rescale(model, scale, mean)


def _rescale(model: Sequential, scale: Any, shift: Any) -> None:
    """Let the last layer say scale · z + shift where it said z."""
    if model.backend is not None:
        weights = model.layers[-1].weights
        W, w0 = (to_numpy(weights[name]).astype(np.float64) for name in ("W", "w0"))
        model.layers[-1].set_weights({"W": W * scale, "w0": w0 * scale + shift})
