"""Metrics for people to read, computed on the prediction's device, without gradients."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.counts import F1, FBeta, Precision, Recall
from dense_xp.learning.losses import Loss
from dense_xp.learning.metric import Measure, Metric, MetricLike, Unweighted
from dense_xp.learning.named_losses import LOSSES, AverageLoss
from dense_xp.learning.reading import (
    classes_of,
    fitting,
    kept,
    labels_of,
    numbers,
    rows_of,
    times,
    weighted,
)
from dense_xp.learning.special import counted
from dense_xp.support.checks import Checked, Ranges, several
from dense_xp.support.dtypes import in_dtype
from dense_xp.support.registry import by_name

# ------------------------------------------------------------------------------------- means


def accuracy(prediction: Array, target: Array, weight: Array | None = None, *, threshold: float = 0.0) -> Array:
    """Return the share of samples whose largest output is the right class.

    Parameters
    ----------
    prediction : array, shape (..., n_outputs)
        Logits or probabilities.
    target : array
        Class labels of shape (...), or one-hot rows of the prediction's shape. For a single output: 0 or 1.
    weight : array, shape (...), optional
        How much each sample counts.
    threshold : float, default 0.0
        Above which a single output is positive: 0 for logits, 0.5 for probabilities.

    Returns
    -------
    array, shape ()
        Between 0 and 1, in the prediction's dtype, or float32 where that has 16 bits; NaN if a prediction is.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> float(accuracy(np.asarray([[0.1, 2.0], [3.0, 1.0]]), np.asarray([1, 1])))
    0.5
    """
    return _mean(_right(prediction, fitting(prediction, target), threshold), prediction, weight)


def _right(prediction: Array, target: Array, threshold: float) -> Array:
    if prediction.shape[-1] == 1:
        return ((prediction > threshold) == (numbers(target, prediction) > 0))[..., 0]
    return array_namespace(prediction).argmax(prediction, axis=-1) == labels_of(prediction, target)


def _mean(right: Array, prediction: Array, weight: Array | None) -> Array:
    """Return the weighted share of samples that are right."""
    xp, right = array_namespace(prediction), _known(right, prediction)
    if weight is None:
        return xp.mean(right)
    weight = in_dtype(weight, right.dtype)
    total = xp.sum(weight)
    return xp.sum(counted(weight, right)) / xp.where(total > 0, total, 1.0)


def _known(right: Array, prediction: Array) -> Array:
    """Return booleans as numbers of at least 32 bits, NaN where a prediction is NaN."""
    xp = array_namespace(prediction)
    right = xp.astype(right, prediction.dtype if xp.finfo(prediction.dtype).bits >= 32 else xp.float32)
    return xp.where(xp.any(xp.isnan(prediction), axis=-1), math.nan, right)


accuracy.greater_is_better = True  # type: ignore[attr-defined]


class _Share(Checked, Metric):
    """The share of samples that are right, among those that count."""

    ignore_index: int | None
    ranges: ClassVar[Ranges] = {"ignore_index": None}
    greater_is_better: ClassVar[bool] = True

    def right(self, prediction: Array, target: Array) -> Array:
        """Return whether each sample is right, from rows of predictions and targets."""
        raise NotImplementedError

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the weight of the samples that are right, and that of all; see :meth:`Metric.statistics`."""
        xp = array_namespace(prediction)
        prediction, target, weight = rows_of(prediction, target, weight)
        right = _known(self.right(prediction, target), prediction)[:, None]
        weight = times(weight, kept(prediction, target, self.ignore_index))
        total = xp.ones_like(right) if weight is None else weight
        return xp.stack([xp.sum(weighted(right, weight)), xp.sum(total)])[None, ...]

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the share; 0 without samples."""
        right, total = statistics.sum(axis=0)
        return float(right / (total or 1.0))

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the share as a 0-d array; for the arguments see :func:`accuracy`."""
        xp = array_namespace(prediction)
        right, total = (self.statistics(prediction, target, weight)[0, i] for i in (0, 1))
        return right / xp.where(total > 0, total, 1.0)


@dataclass(frozen=True)
class Accuracy(_Share):
    """The share of samples whose largest output is the right class; :func:`accuracy` with a threshold of its own.

    Parameters
    ----------
    threshold : float, optional
        Above which a single output is positive. By default 0, for logits; in training, 0.5 for a model that ends in a
        sigmoid.
    ignore_index : int, optional
        The label of samples that are left out.
    name : str, default "accuracy"
        In the history.

    Examples
    --------
    >>> import numpy as np
    >>> float(Accuracy(0.5)(np.asarray([[0.4], [0.9]]), np.asarray([0, 1])))
    1.0
    """

    threshold: float | None = None
    ignore_index: int | None = field(default=None, kw_only=True)
    name: str = field(default="accuracy", kw_only=True)

    ranges: ClassVar[Ranges] = {"threshold": "(-inf, inf)"}

    def right(self, prediction: Array, target: Array) -> Array:
        """Return whether the largest output is the right class."""
        return _right(prediction, target, self.threshold or 0.0)


@dataclass(frozen=True)
class TopK(_Share):
    """The share of samples whose class is among the `k` with the largest outputs.

    Of classes with equal outputs the last counts as the largest, as in scikit-learn.

    Parameters
    ----------
    k : int, default 5
        How many guesses a sample has.
    ignore_index : int, optional
        The label of samples that are left out.
    name : str, optional
        In the history; by default ``"top_5"`` for ``k=5``.

    Raises
    ------
    ValueError
        If `k` is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> float(TopK(2)(np.asarray([[0.1, 2.0, 1.0], [3.0, 1.0, 2.0]]), np.asarray([2, 1])))
    0.5
    """

    k: int = 5
    ignore_index: int | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)

    ranges: ClassVar[Ranges] = {"k": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name or f"top_{self.k}")

    def right(self, prediction: Array, target: Array) -> Array:
        """Return whether fewer than `k` classes come before the right one."""
        xp = array_namespace(prediction)
        if prediction.shape[-1] == 1:
            raise ValueError("TopK needs one output for each class, and the prediction has a single one: use accuracy")
        classes, label = classes_of(prediction, labels_of(prediction, target))
        own = xp.max(xp.where(classes == label, prediction, -math.inf), axis=-1, keepdims=True)
        before = (prediction > own) | ((prediction == own) & (classes > label))
        return xp.sum(xp.astype(before, label.dtype), axis=-1) < self.k


# ------------------------------------------------------------------------------------- from all of the data


@dataclass(frozen=True)
class AUC(Checked, Metric):
    r"""The area under the ROC curve: how often a positive scores higher than a negative; ties count half.

    .. math:: P(s_+ > s_-) + P(s_+ = s_-) / 2

    It is exact, from the order of all scores. With several classes it is the mean of the areas of each class against
    the rest, by the softmax of the outputs.

    Parameters
    ----------
    multilabel : bool, default False
        Whether the outputs are independent binary labels, instead of classes of which one is true.
    logits : bool, optional
        Whether the outputs of several classes are logits. By default True; in training, False for a model that ends in
        a softmax.
    ignore_index : int, optional
        The label of samples that are left out; not for `multilabel`.
    name : str, default "auc"
        In the history.

    Notes
    -----
    The scores of all samples are kept until the epoch ends, and sorted on the host. A class that is never or always
    true has no area and is left out of the mean; without any area the value is NaN.

    References
    ----------
    .. [1] J. A. Hanley and B. J. McNeil, "The meaning and use of the area under a receiver operating
       characteristic (ROC) curve", Radiology 143 (1982), pp. 29–36.

    Examples
    --------
    >>> import numpy as np
    >>> AUC()(np.asarray([[0.1], [0.4], [0.4], [0.8]]), np.asarray([0, 0, 1, 1]))
    0.875
    """

    multilabel: bool = field(default=False, kw_only=True)
    logits: bool | None = field(default=None, kw_only=True)
    ignore_index: int | None = field(default=None, kw_only=True)
    name: str = field(default="auc", kw_only=True)
    ranges: ClassVar[Ranges] = {"ignore_index": None}
    greater_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multilabel and self.ignore_index is not None:
            raise ValueError("AUC leaves out whole samples: ignore_index is not for multilabel=True")

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return a row for each sample: its scores, its label or binary labels, its weight."""
        xp = array_namespace(prediction)
        prediction, target, weight = rows_of(prediction, target, weight)
        weight = times(weight, kept(prediction, target, self.ignore_index))
        if prediction.shape[-1] > 1 and not self.multilabel:
            target = labels_of(prediction, target)[:, None]
        elif target.ndim == 1:
            raise ValueError("AUC(multilabel=True) needs a target with 0 or 1 for each label")
        if weight is None:
            weight = xp.ones_like(prediction[:, :1])
        return xp.concat([prediction, numbers(target, prediction), weight], axis=1)

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the area, or the mean over the classes that have one."""
        columns = statistics.shape[1] - 1
        n_scores = columns // 2 if self.multilabel else columns - 1
        scores, target, weight = statistics[:, :n_scores], statistics[:, n_scores:-1], statistics[:, -1]
        if np.isnan(scores[weight > 0]).any():
            return math.nan
        if n_scores > target.shape[1]:
            there = target == np.arange(n_scores)
            scores = scores if self.logits is False else _log_probabilities(scores)
        else:
            there = target > 0
        areas = [_area(*column, weight) for column in zip(scores.T, there.T, strict=True)]
        defined = [area for area in areas if not math.isnan(area)]
        return sum(defined) / len(defined) if defined else math.nan


def _log_probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the logarithm of the softmax without rounding that would make or break ties."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    others = np.sort(np.exp(shifted), axis=1)[:, :-1].sum(axis=1, keepdims=True)  # sorted: the order is always the same
    return np.asarray(shifted - np.log1p(others))


def _area(score: np.ndarray[Any, Any], there: np.ndarray[Any, Any], weight: np.ndarray[Any, Any]) -> float:
    _, place = np.unique(score, return_inverse=True)
    yes, no = (np.bincount(place, weight * side) for side in (there, ~there))
    pairs = yes.sum() * no.sum()
    return float(yes @ (np.cumsum(no) - 0.5 * no) / pairs) if pairs > 0 else math.nan


@dataclass(frozen=True)
class R2(Metric):
    r"""The share of the variance that is explained, :math:`1 - \sum (t - y)^2 / \sum (t - \bar t)^2`.

    With several outputs it is the mean over them. Prediction and target have the same shape.

    Parameters
    ----------
    name : str, default "r2"
        In the history.

    Notes
    -----
    The mean and the sum of squares around it are kept for each batch, and combined by the rule of Chan, Golub and
    LeVeque, which avoids cancellation. For a constant target, which has no variance, the value is 1 for a prediction
    without error and 0 otherwise, as in scikit-learn.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for computing the sample variance: analysis
       and recommendations", The American Statistician 37 (1983), pp. 242–247.

    Examples
    --------
    >>> import numpy as np
    >>> R2()(np.asarray([[1.0], [2.0], [3.0]]), np.asarray([[1.0], [2.0], [4.0]]))
    0.7857142857142857
    """

    name: str = field(default="r2", kw_only=True)
    greater_is_better: ClassVar[bool] = True

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return, for each output: weight, mean as a sum of two numbers, squares around it, and squared errors."""
        xp = array_namespace(prediction)
        prediction, target, weight = rows_of(prediction, target, weight)
        if target.ndim == 1:
            raise ValueError(
                f"R2 needs a target for each output, and has shape {tuple(target.shape)} for {tuple(prediction.shape)}"
            )
        target = numbers(target, prediction)
        if weight is None:
            weight = xp.ones_like(prediction[:, :1])
        total = xp.sum(weight)
        some = xp.where(total > 0, total, 1.0)
        first = target[:1, :]  # if targets are far from zero, only differences keep enough digits
        offset = target - first
        mean = xp.sum(offset * weight, axis=0, keepdims=True) / some
        around = xp.sum(xp.square(offset - mean) * weight, axis=0, keepdims=True)
        errors = xp.sum(xp.square(target - prediction) * weight, axis=0, keepdims=True)
        return xp.stack([xp.zeros_like(mean) + total, first, mean, around, errors], axis=1)

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the mean over the outputs."""
        weight, first, mean, around, errors = np.moveaxis(statistics, 1, 0)
        offset = first - first[0] + mean
        offset -= (weight * offset).sum(axis=0) / weight.sum(axis=0)
        squares = (around + weight * offset**2).sum(axis=0)
        error = errors.sum(axis=0)
        explained = 1.0 - np.divide(error, squares, out=error.copy(), where=squares > 0)
        return float(np.where((squares > 0) | np.isnan(error), explained, error == 0).mean())


# ------------------------------------------------------------------------------------- by name


_METRICS: dict[str, Callable[[], Measure]] = {
    "accuracy": lambda: accuracy,
    "top_5": TopK,
    "f1": F1,
    "precision": Precision,
    "recall": Recall,
    "auc": AUC,
    "r2": R2,
    **LOSSES,
}


def get_metric(spec: MetricLike) -> tuple[str, Measure]:
    """Return a metric and its name.

    Raises
    ------
    ValueError
        If the name is not known.
    TypeError
        If it is a class, or not callable.

    Examples
    --------
    >>> name, metric = get_metric("top_3")
    >>> name, metric.k
    ('top_3', 3)
    """
    if isinstance(spec, str):
        if top := re.fullmatch(r"top_([1-9]\d*)", spec):
            return spec, TopK(int(top[1]))
        if spec not in _METRICS and (beta := re.fullmatch(r"f(\d+(\.\d+)?)", spec)):
            return spec, FBeta(float(beta[1]))
        otherwise = ", a Metric, or a function of (prediction, target) that returns a 0-d array"
        return spec, by_name("metric", _METRICS, spec, otherwise)()
    if isinstance(spec, type):
        raise TypeError(f"{spec.__name__} is a class: pass a metric, {spec.__name__}()")
    if not callable(spec):
        raise TypeError(f"a metric is a name, a Metric or a function of (prediction, target), and this is {spec!r}")
    given: Any = getattr(spec, "name", "")
    if not isinstance(given, str | None):
        raise TypeError(f"the name of a metric is a text, and this is {given!r:.60}")
    name = str(given or getattr(spec, "__name__", type(spec).__name__))
    if isinstance(spec, Loss) and type(spec).sample_weights is not Loss.sample_weights:
        return name, AverageLoss(spec)
    return name, spec if isinstance(spec, Metric) or _takes_weight(spec) else Unweighted(spec)


def _takes_weight(function: Callable[..., Any]) -> bool:
    try:
        return "weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return False


def named_metrics(specs: Sequence[MetricLike]) -> dict[str, Measure]:
    """Return metrics by their names.

    Raises
    ------
    ValueError, TypeError
        As :func:`get_metric`; and if two have the same name.
    """
    named: dict[str, Measure] = {}
    for name, metric in map(get_metric, several("metrics", specs)):
        if name in named or name == "loss":
            raise ValueError(
                f"two measures are called {name!r}: give one another name, as in F1('micro', name='micro')"
            )
        named[name] = metric
    return named


def suited(metrics: Mapping[str, Measure], probabilities: bool) -> dict[str, Measure]:
    """Return metrics whose `threshold` and `logits` suit the outputs of a model.

    Parameters
    ----------
    metrics : mapping of str to Measure
        Those with a `threshold` or `logits` of their own keep it.
    probabilities : bool
        Whether the model ends in a sigmoid or a softmax, and so does not give logits.
    """
    if not probabilities:
        return dict(metrics)
    read: dict[str, Measure] = {}
    for name, metric in metrics.items():
        found: Any = Accuracy() if metric is accuracy else metric
        if getattr(found, "threshold", 0.0) is None:
            found = dataclasses.replace(found, threshold=0.5)
        if getattr(found, "logits", True) is None:
            found = dataclasses.replace(found, logits=False)
        read[name] = found
    return read


def better(name: str, metrics: Mapping[str, Measure]) -> str:
    """Return whether small or large values of a column of the history are good: "min", "max", or "" if unknown.

    A metric says so by its attribute ``greater_is_better``, which a function may have too.

    Examples
    --------
    >>> better("val_loss", {}), better("val_accuracy", {"accuracy": accuracy}), better("mine", {"mine": abs})
    ('min', 'max', '')
    """
    name = name.removeprefix("val_")
    measure = metrics.get(name) or metrics.get(re.sub(r"_\d+$", "", name))  # one column for each class
    function = measure.function if isinstance(measure, Unweighted) else measure
    greater = False if name == "loss" else getattr(function, "greater_is_better", None)
    return "" if greater is None else "max" if greater else "min"
