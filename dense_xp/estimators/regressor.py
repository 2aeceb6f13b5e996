"""A regressor with scikit-learn's interface."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin

from dense_xp.backend import Array
from dense_xp.estimators.base import DenseEstimator
from dense_xp.estimators.task import Task
from dense_xp.learning.losses import LOSSES, Loss


@dataclass(eq=False, repr=False)
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

    _: KW_ONLY
    loss: str | Loss = "mean_squared_error"

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **DenseEstimator._parameter_constraints,
        "loss": [str, Loss],
    }

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go once through these data, and keep what was learned before, the optimizer's state included.

        Mean and scale of the targets are those of the first call.

        Parameters
        ----------
        X, y, sample_weight
            As in :meth:`~dense_xp.estimators.base.DenseEstimator.fit`.

        Returns
        -------
        self
            The same estimator.
        """
        return self._learn(X, y, sample_weight, goes_on=hasattr(self, "model_"))

    def _task(self, y: Any, weight: Any, goes_on: bool, classes: Any) -> Task:
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
        return Task((rows - mean) / scale, weight, LOSSES.made(self.loss), learned, (mean, scale))

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
