"""A regressor with scikit-learn's interface."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_pinball_score
from sklearn.utils import check_array

from dense_xp.backend import Array, Backend, to_numpy
from dense_xp.estimators.arrays import on_host
from dense_xp.estimators.base import DenseEstimator
from dense_xp.estimators.intervals import assumed_width, band_of, conformal_width, units_of, values_of
from dense_xp.estimators.task import Task
from dense_xp.layers.dense import Dense
from dense_xp.layers.ensemble import DenseEnsemble
from dense_xp.learning.distributions import LogLink, Quantile
from dense_xp.learning.losses import Loss
from dense_xp.learning.named_losses import LOSSES
from dense_xp.support.checks import real
from dense_xp.training.sequential import Sequential


@dataclass(eq=False, repr=False)
class DenseRegressor(RegressorMixin, DenseEstimator):  # type: ignore[misc]
    """A multi-layer perceptron for regression, with scikit-learn's interface.

    It trains on targets scaled to mean 0 and variance 1, so that learning rate and `tol` do not depend on their units.
    ``predict`` scales back in float64, if the device has it, so that no digit of a large mean is lost. If the network
    predicts the logarithm of a mean, targets are only divided by their mean.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Units of each hidden layer.
    loss : str or Loss, default "mean_squared_error"
        What is minimised: also ``"mean_absolute_error"``, ``Huber(1.0)`` …, measured in units of the scaled targets.
        ``"quantile"`` predicts quantiles; ``"gaussian"`` learns a variance beside the mean; ``"poisson"``, ``"gamma"``
        and ``Tweedie(1.5)`` are for counts and amounts, whose mean is never negative.
    quantiles : sequence of float, optional
        With ``loss="quantile"``: which, in ascending order; by default the median.
    activation : str or Layer, or one for each hidden layer, default "relu"
        ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"`` …, ``"linear"`` for none, or a layer such as ``ELU(0.5)``.
    scaling : {"robust"}, optional, default "robust"
        First layer: :class:`~dense_xp.RobustScale`, for features of any size and with outliers; None for data that are
        scaled already.
    n_bins : int, optional
        Encode each feature in at most so many bins, such as 16; see :class:`~dense_xp.PiecewiseLinear`.
    n_members : int, default 1
        How many networks learn side by side, each from its own initial weights. The regressor predicts the mean of
        their outputs, which early stopping uses too.
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
        The share that is held back.
    stopping_metric : str, Metric or callable, optional
        What early stopping measures: by default the loss; ``"r2"``, ``"mean_absolute_error"`` or any other metric of
        :meth:`dense_xp.Sequential.fit`.
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
    n_outputs_ : int
        How many numbers the last layer has.
    y_mean_, y_scale_ : list of float
        For each output of the network: ``output * y_scale_ + y_mean_`` is in the units of the targets.
    calibration_ : tuple of array, or None
        The predictions for the rows of `calibrate`, and their targets.
    n_features_in_ : int
        How many features there are.
    feature_names_in_ : array of str
        Their names, if X was a data frame with names.
    model_ : Sequential
        A copy of the network that predicts in the units of y: ``dense_xp.save(regressor.model_, path)``. Its last
        layer adds the mean in the dtype of the network, which for a large mean has fewer digits than ``predict``. For
        counts and amounts it predicts the logarithm of the mean, and with ``"gaussian"`` also that of the variance.
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
        ``"identity"``: the outputs are the prediction.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> regressor = DenseRegressor(backend="numpy", max_epochs=500, random_state=0).fit(X, 50 + 10 * X[:, 0])
    >>> bool(abs(regressor.predict([[0.5]])[0] - 55) < 0.5)
    True
    """

    _: KW_ONLY
    loss: str | Loss = "mean_squared_error"
    quantiles: Sequence[float] | None = None

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DenseEstimator._parameter_constraints,
        "loss": [str, Loss],
        "quantiles": ["array-like", None],
    }

    @property
    def model_(self) -> Sequential:
        """A copy of the network that predicts in the units of y: its last layer scales back, in its own dtype."""
        model = copy.deepcopy(self.network_)
        last = next(layer for layer in reversed(model.layers) if isinstance(layer, Dense | DenseEnsemble))
        W, w0 = (to_numpy(last.weights[name]).astype(np.float64) for name in ("W", "w0"))
        scale, mean = np.asarray(self.y_scale_), np.asarray(self.y_mean_)
        scales, means = (np.tile(numbers, w0.size // len(scale)) for numbers in (scale, mean))
        last.set_weights({"W": W * scales[: W.shape[1]], "w0": w0 * scales + means})
        return model

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch on these data, from the current weights and optimizer state.

        Mean and scale of the targets are those of the first call. A calibration is discarded.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`~dense_xp.estimators.base.DenseEstimator.fit`.

        Returns
        -------
        self
            The same estimator.
        """
        return self._learn(X, y, sample_weight, goes_on=hasattr(self, "network_"))

    def _loss_to_learn(self) -> Loss:
        if self.quantiles is None:
            return LOSSES.made(self.loss)
        if self.loss != "quantile":
            raise ValueError(f"quantiles are learned with loss='quantile', and loss is {self.loss!r}")
        return Quantile(self.quantiles)

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> Task:
        loss, rows = self._loss_to_learn(), y.astype(np.float64).reshape(len(y), -1)
        n_outputs = rows.shape[1] * loss.outputs_per_target
        loss.check_target(rows, (n_outputs,))  # in the units of y
        learned = {"n_outputs_": n_outputs, "_one_output": y.ndim == 1, "out_activation_": "identity"}
        log_link = isinstance(loss, LogLink)
        if log_link:
            learned["out_activation_"] = "exp"
        if goes_on:
            if any(getattr(self, name) != value for name, value in learned.items()) or (
                loss.outputs_per_target > 1 and loss != self._loss
            ):
                raise ValueError(f"y or loss has not the form that it had before, with {self.n_outputs_} outputs")
            shift, factor = np.asarray(self.y_mean_), np.asarray(self.y_scale_)
            mean, scale = (x[:: loss.outputs_per_target] for x in (shift, factor))
            mean = np.exp(mean) if log_link else mean
        else:
            mean, scale = _mean_and_scale(rows, weight)
            if log_link:
                mean = np.where(mean > 0, mean, 1.0)
            shift, factor = units_of(loss, mean, scale)
        learned |= {"y_mean_": shift.tolist(), "y_scale_": factor.tolist()}  # plain numbers need no device
        learned |= {"_loss": loss, "calibration_": None}
        return Task(rows / mean if log_link else (rows - mean) / scale, weight, loss, learned)

    def predict(self, X: Any) -> Array:
        """Return the expected target of each sample, or its quantiles.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.

        Returns
        -------
        array, shape (n_samples,) or (n_samples, n_targets)
            As y was in ``fit``; on the device if X is there. Several quantiles add a last axis.
        """
        values = self._values(X, "predict")
        several = isinstance(self._loss, Quantile) and len(self._loss.quantiles) > 1
        answers = values if several else values[..., 0]
        return answers[:, 0, ...] if self._one_output else answers

    def _values(self, X: Any, method: str) -> Array:
        """Return the predictions for each target, in its units; see :func:`values_of`."""
        outputs = self._outputs(X, method)
        with self._model_backend.scope():
            if isinstance(outputs, np.ndarray):
                outputs = outputs * np.asarray(self.y_scale_) + np.asarray(self.y_mean_)
            else:
                mean, scale, wide = _widest(self._model_backend, self.y_mean_, self.y_scale_, outputs)
                outputs = wide * scale + mean
            return values_of(self._loss, outputs)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², or for quantiles the mean of D², its counterpart for the pinball loss.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`~dense_xp.estimators.base.DenseEstimator.fit`.
        """
        answers = self.predict(X)
        if not isinstance(self._loss, Quantile):
            return float(super().score(X, y, sample_weight))
        quantiles, host = self._loss.quantiles, to_numpy(answers)
        each = host[..., None] if len(quantiles) == 1 else host
        return float(
            np.mean(
                [
                    d2_pinball_score(on_host(y), each[..., i], sample_weight=sample_weight, alpha=q)
                    for i, q in enumerate(quantiles)
                ]
            )
        )

    # ------------------------------------------------------------------ intervals

    def calibrate(self, X: Any, y: Any) -> Self:
        """Calibrate intervals with rows that were not trained on.

        This is split conformal prediction: if these rows and new ones are exchangeable, an interval of
        :meth:`predict_interval` contains the target of a new row with at least the probability `coverage`, whatever
        the network has learned. A ``fit`` discards the calibration.

        Parameters
        ----------
        X, y
            Other rows and targets than in :meth:`~dense_xp.estimators.base.DenseEstimator.fit`, of the same form.

        Returns
        -------
        self
            With ``calibration_``.

        References
        ----------
        .. [1] Y. Romano, E. Patterson, E. Candès, "Conformalized quantile regression", NeurIPS 2019,
           https://arxiv.org/abs/1905.03222
        """
        values = to_numpy(self._values(X, "calibrate"))
        target = check_array(on_host(y), ensure_2d=False, dtype=np.float64, input_name="y")
        wanted = values.shape[:1] if self._one_output else values.shape[:2]
        if target.shape != wanted:
            raise ValueError(f"y has shape {target.shape} and needs {wanted}: the targets of the rows of X")
        self.calibration_ = (values, target.reshape(values.shape[:2]))
        return self

    def predict_interval(self, X: Any, coverage: float = 0.9) -> Array:
        """Return an interval for the target of each sample.

        After :meth:`calibrate` it works for every loss: around the mean or the quantiles, with one width for all rows,
        or in proportion to the standard deviation that the loss describes. Without, it works for ``loss="gaussian"``,
        by the normal distribution, and for ``loss="quantile"`` if `coverage` lies between two of the quantiles; on new
        rows such intervals often contain fewer targets than that.

        Parameters
        ----------
        X : array, sparse matrix or data frame, shape (n_samples, n_features)
            The samples.
        coverage : float, default 0.9
            The share of the targets that should be inside: above 0 and below 1.

        Returns
        -------
        array, shape (n_samples, 2) or (n_samples, n_targets, 2)
            Its ends; on the device if X is there.

        Raises
        ------
        ValueError
            If the loss gives no interval of that coverage, or `calibrate` had too few rows for it.

        Examples
        --------
        >>> import numpy as np
        >>> X = np.linspace(-1, 1, 300)[:, None]
        >>> y = X[:, 0] + np.random.default_rng(0).normal(size=300)
        >>> regressor = DenseRegressor(backend="numpy", random_state=0).fit(X[::2], y[::2]).calibrate(X[1::2], y[1::2])
        >>> low, high = regressor.predict_interval(X[1::2]).T
        >>> round(float(np.mean((low <= y[1::2]) & (y[1::2] <= high))), 2)
        0.91
        """
        coverage = real("coverage", coverage, "(0, 1)")
        values = self._values(X, "predict_interval")
        loss = self._loss
        if self.calibration_ is None:
            width: Any = assumed_width(loss, coverage)
        else:
            seen, target = self.calibration_
            width = conformal_width(band_of(loss, seen, coverage), target, coverage)
        xp = array_namespace(values)
        with self._model_backend.scope():
            low, high, unit = band_of(loss, values, coverage)
            if not isinstance(values, np.ndarray):
                (width,) = _widest(self._model_backend, width)
            low, high = low - width * unit, high + width * unit
            if isinstance(loss, LogLink):  # no target is negative
                low = xp.maximum(low, xp.zeros_like(low))
            middle = 0.5 * (low + high)  # a negative width may leave only a point
            ends = xp.stack([xp.minimum(low, middle), xp.maximum(high, middle)], axis=-1)
            return ends[:, 0, ...] if self._one_output else ends

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _mean_and_scale(rows: np.ndarray[Any, Any], weight: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return mean and standard deviation of each column; 1 for that of a constant."""
    # scaled by a power of two, which is exact, so that squares neither overflow nor vanish
    unit = np.ldexp(1.0, np.frexp(np.max(np.abs(rows), axis=0))[1] - 1)
    mean = np.average(rows / unit, axis=0, weights=weight)
    rest = rows / unit - mean
    far = np.ldexp(1.0, np.frexp(np.max(np.abs(rest), axis=0))[1] - 1)
    scale = far * np.sqrt(np.average(np.square(rest / far), axis=0, weights=weight))
    constant = scale <= 10 * np.finfo(np.float64).eps * np.abs(mean)
    return mean * unit, np.where(constant, 1.0, scale * unit)


def _widest(backend: Backend, *arrays: Any) -> list[Array]:
    """Return arrays on the device in float64, or in float32 where it has no wider one."""
    for dtype in ("float64", "float32"):
        try:
            return [backend.asarray(array, dtype) for array in arrays]
        except (TypeError, RuntimeError):  # JAX outside its 64-bit mode, a Mac's GPU
            continue
    raise AssertionError("every device has float32")
