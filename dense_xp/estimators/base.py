"""The base class of both estimators: scikit-learn's rules around a :class:`~dense_xp.Sequential`."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace
from sklearn import get_config
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from dense_xp.backend import Array, Backend, from_spec, get_backend, resolve
from dense_xp.estimators import networks
from dense_xp.estimators.arrays import checked_weight, dispatches, home_of, on_host
from dense_xp.estimators.stopping import held_back, rows_to_watch, stopping, stopping_metric
from dense_xp.estimators.task import Task
from dense_xp.layers.layer import Layer
from dense_xp.learning.members import MemberLoss
from dense_xp.learning.metric import MetricLike
from dense_xp.learning.schedules import Schedule
from dense_xp.training.history import History
from dense_xp.training.sequential import Sequential

_FEW = 100  # fewer rows are too few to hold out a tenth, and train fast


@dataclass(eq=False, repr=False)
class DenseEstimator(BaseEstimator):  # type: ignore[misc]
    """Base class of both estimators, which document the parameters."""

    hidden_layer_sizes: int | Sequence[int] = (100,)
    _: KW_ONLY
    activation: str | Layer | Sequence[str | Layer] = "relu"
    scaling: str | None = "robust"
    n_bins: int | None = None
    n_members: int = 1
    dropout: float = 0.0
    normalization: str | None = None
    optimizer: Any = "adam"
    learning_rate: float | Schedule | None = None
    weight_decay: float | None = None
    batch_size: int | str = "auto"
    max_epochs: int = 200
    tol: float = 1e-4
    n_iter_no_change: int | None = 20
    early_stopping: bool | str = "auto"
    validation_fraction: float = 0.1
    stopping_metric: MetricLike | None = None
    warm_start: bool = False
    random_state: Any = None
    verbose: bool | int = False
    callbacks: Sequence[Any] = ()
    backend: str | Backend | None = None
    dtype: str = "auto"

    # what fit learns
    network_: Sequential = field(init=False)  # with the targets in scaled units
    history_: History = field(init=False)
    n_iter_: int = field(init=False)
    loss_: float = field(init=False)
    best_loss_: float | None = field(init=False)
    t_: int = field(init=False)
    n_layers_: int = field(init=False)
    n_outputs_: int = field(init=False)
    out_activation_: str = field(init=False)
    _shape: str = field(init=False)  # settings of scaling, bins and hidden layers
    _on_device: bool = field(init=False)  # whether the training X was on a device

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [str, Layer, "array-like"],
        "scaling": [StrOptions({"robust"}), None],
        "n_bins": [Interval(Integral, 1, None, closed="left"), None],
        "n_members": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "normalization": [StrOptions({"layer", "batch"}), None],
        "optimizer": "no_validation",  # as_optimizer has better messages
        "learning_rate": [Interval(Real, 0, None, closed="neither"), Schedule, None],
        "weight_decay": [Interval(Real, 0, None, closed="left"), None],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_epochs": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "early_stopping": ["boolean", StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "stopping_metric": [str, callable, None],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "callbacks": [list, tuple],
        "backend": [str, Backend, None],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
    }

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> Task:
        """Turn validated targets into what a network can learn; nothing is stored yet."""
        raise NotImplementedError

    # ------------------------------------------------------------------ learning

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
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
        X_val, y_val, sample_weight_val : optional
            Validation rows for early stopping, in place of a share of `X`, which is then trained on as a whole. Of the
            form of `X`, `y` and `sample_weight`.

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
        goes_on = self.warm_start and hasattr(self, "network_")
        watched = None
        if any(given is not None for given in (X_val, y_val, sample_weight_val)):
            watched = X_val, y_val, sample_weight_val
        return self._learn(X, y, sample_weight, goes_on=goes_on, epochs=self.max_epochs, watched=watched)

    def _learn(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        *,
        goes_on: bool,
        epochs: int | None = None,
        classes: Any = None,
        watched: tuple[Any, Any, Any] | None = None,
    ) -> Self:
        """Train; without `epochs`, go through the data once with the optimizer as it stands."""
        self._validate_params()
        if epochs is None and self.early_stopping is True:
            raise ValueError("partial_fit sees a part of the data and cannot stop early: set early_stopping=False")
        metric = stopping_metric(self, watched)
        optimizer, layers = networks.optimizer_of(self), networks.hidden(self)
        shape, several = repr((self.scaling, self.n_bins, layers)), self.n_members > 1
        if goes_on and shape != self._shape:
            raise ValueError(
                "scaling, n_bins or the hidden layers are not those of the model that is to learn more: "
                "set warm_start=False and call fit to start anew"
            )
        backend, wanted = self._place(X, goes_on)
        accepted = self._accepted(X, wanted)
        numbers = isinstance(self, RegressorMixin)
        X, y = validate_data(self, X, on_host(y), reset=not goes_on, multi_output=True, y_numeric=numbers, **accepted)
        task = self._task(y, checked_weight(sample_weight, X.shape[0]), goes_on, classes)
        few = X.shape[0] < _FEW or (task.weight is not None and np.count_nonzero(task.weight) < _FEW)
        stops = bool(self.early_stopping)
        if self.early_stopping == "auto":
            stops = watched is not None or (epochs is not None and not few)
        dtype = wanted or ("float64" if few and "float64" in str(X.dtype) else "float32")
        data, validation = (X, task.target, task.weight), None
        if watched is not None:
            validation = rows_to_watch(self, watched, type(self)._task, task, accepted)
        elif stops:
            data, validation = held_back(self, data, y)
        if goes_on:
            model = self.network_
        else:
            layers += networks.end(self, task, first=not layers)
            layers[:0] = networks.front(self, data[0], data[2])
            seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
            model = Sequential(layers, dtype=dtype, backend=backend, rng=seed)
        n = data[0].shape[0]
        history = model.fit(
            data[0],
            data[1],
            epochs or 1,
            min(n, max(64, min(512, n // 100))) if self.batch_size == "auto" else int(self.batch_size),
            loss=MemberLoss(task.loss) if several else task.loss,
            optimizer=None if goes_on and epochs is None else optimizer,
            metrics=[] if metric is None else [metric],
            validation_data=validation,
            sample_weight=data[2],
            callbacks=[*self.callbacks, *([] if epochs is None else [stopping(self, epochs, metric, stops)])],
            verbose=bool(self.verbose),
        )
        least, seen = (self.best_loss_, self.t_) if goes_on else (None, 0)
        losses = history["loss"] if least is None else [least, *history["loss"]]
        self.best_loss_, self.t_ = None if stops else min(losses), seen + history.samples
        self.n_layers_ = 2 + np.size(self.hidden_layer_sizes)
        for name, value in task.learned.items():
            setattr(self, name, value)
        self.network_, self.history_, self.n_iter_ = model, history, history.epochs
        self.loss_ = history["loss"][(history.best_epoch or history.epochs) - 1]
        self._shape, self._on_device = shape, home_of(X).name != "numpy"
        return self

    def _place(self, X: Any, goes_on: bool) -> tuple[Backend, str | None]:
        """Return where to train, and in which dtype; None is that of the data."""
        if goes_on:
            return self._model_backend, self.network_.dtype
        home = home_of(X)
        backend = resolve(self.backend, *([X] if dispatches(X) else []))
        if self.dtype != "auto":
            return backend, self.dtype
        # data that move to another backend do so as float32, in which devices are fast
        return backend, None if backend == home else "float32"

    def _accepted(self, X: Any, dtype: str | None) -> dict[str, Any]:
        """Return which formats and dtypes scikit-learn's validation accepts."""
        on_device = home_of(X).name != "numpy"
        xp = array_namespace(X) if on_device else np
        floats = (xp.float32, xp.float64)
        # other dtypes are converted to the first: to float64 where scikit-learn does so
        wide = dtype == "float64" or (dtype is None and not on_device)
        return {"accept_sparse": "csr", "dtype": floats[::-1] if wide else floats}

    # ------------------------------------------------------------------ using

    @property
    def _model_backend(self) -> Backend:
        assert self.network_.backend is not None
        return self.network_.backend

    def _outputs(self, X: Any, method: str) -> Array:
        """Return the outputs of the network, on the host or the device, where X is."""
        check_is_fitted(self, "network_")
        model, home = self.network_, home_of(X)
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
        check_is_fitted(self, "network_")
        self.network_.to(backend)
        return self

    # ------------------------------------------------------------------ pickles

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if isinstance(state["backend"], Backend):
            state["backend"] = state["backend"].spec
        if "network_" in state:
            model = state["network_"]
            state["home_of"] = model.backend.spec
            # a copy with NumPy in place of that backend: no device is needed to read it
            numpy = get_backend("numpy")
            state["network_"] = copy.deepcopy(model, {id(model.backend): numpy}).to(numpy)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        home = state.pop("home_of", "numpy")
        super().__setstate__(state)
        if home == "numpy":
            return
        try:
            self.to(from_spec(home))
        except Exception as error:  # whatever is wrong with the device, NumPy can compute
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
