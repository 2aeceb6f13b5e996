"""What a person reads off a prediction, computed where the prediction is; nothing here has a gradient.

A plain function of (prediction, target), or of (prediction, target, weight), is a mean: over the samples of a
batch, and then by weight over the batches of a data set. Where the measure of the whole is no mean of those of
its parts, as with F1, AUC and R², a :class:`Metric` says what to keep of each batch, and what to make of it all.
The size of the batches then changes nothing.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from array_api_compat import array_namespace, device

from dense_xp.backend import Array, to_numpy
from dense_xp.learning.losses import LOSSES
from dense_xp.learning.special import log_softmax
from dense_xp.support.checks import integer_fields, real_fields
from dense_xp.support.dtypes import in_dtype, widened
from dense_xp.support.registry import by_name

Statistics: TypeAlias = Callable[[Array, Array, Any], Array]
"""What is computed in a step: a pure function of prediction, target and the samples' weights, or None for these."""


class Metric:
    """Base class: a subclass writes :meth:`~Metric.statistics` and :meth:`~Metric.value`.

    Called with a prediction, a target and, if wanted, the weight of each sample, it returns its value for these.

    Attributes
    ----------
    name : str
        Under which it stands in the history; that of the class if it is empty.

    Examples
    --------
    The largest error of a whole data set, which no mean over batches gives:

    >>> import numpy as np
    >>> from array_api_compat import array_namespace
    >>> class LargestError(Metric):
    ...     def statistics(self, prediction, target, weight=None):
    ...         xp = array_namespace(prediction)
    ...         return xp.reshape(xp.max(xp.abs(prediction - target)), (1,))
    ...
    ...     def value(self, statistics):
    ...         return float(statistics.max())
    >>> LargestError()(np.asarray([[1.0], [5.0]]), np.asarray([[1.5], [3.0]]))
    2.0
    """

    name: str = ""

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return what there is to keep of a batch: a pure function of arrays, which may be compiled.

        Parameters
        ----------
        prediction : array, shape (..., n_outputs)
            What the model returned.
        target : array
            What it should have returned.
        weight : array, shape (...), optional
            How much each sample counts.

        Returns
        -------
        array, shape (n_rows, ...)
            One row for what adds up, one for each sample where all of them are needed. It stays on the device
            until the epoch ends.
        """
        raise NotImplementedError(f"{type(self).__name__} has no statistics(prediction, target, weight)")

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the number that all the batches have come to.

        Parameters
        ----------
        statistics : numpy.ndarray, shape (n_rows, ...)
            The rows of all batches, one after the other, on the host and in float64.

        Returns
        -------
        float
            NaN if it is not defined for these data.
        """
        raise NotImplementedError(f"{type(self).__name__} has no value(statistics)")

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> float:
        """Return the value for one batch."""
        with np.errstate(all="ignore"):
            return self.value(to_numpy(self.statistics(prediction, target, weight)).astype(np.float64))


# ------------------------------------------------------------------------------------- means


def accuracy(prediction: Array, target: Array, weight: Array | None = None) -> Array:
    """Return the share of samples whose largest output is the right class.

    Parameters
    ----------
    prediction : array, shape (..., n_outputs)
        Logits or probabilities; with a single output a logit, whose sign is the class.
    target : array
        Class labels of shape (...), or one-hot rows of the prediction's shape. For a single output: 0 or 1.
    weight : array, shape (...), optional
        How much each sample counts.

    Returns
    -------
    array, shape ()
        Between 0 and 1, in the prediction's dtype, or float32 where that has 16 bits.

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
    xp = array_namespace(prediction)
    target = _fitting(prediction, target)
    if prediction.shape[-1] == 1:
        right = ((prediction > 0) == (_numbers(target, prediction) > 0))[..., 0]
    else:
        right = xp.argmax(prediction, axis=-1) == _labels(prediction, target)
    return _share(right, prediction, weight)


@dataclass(frozen=True)
class TopK:
    """The share of samples whose class is among the `k` with the largest outputs.

    Of classes with equal outputs the last counts as the largest, as in scikit-learn.

    Parameters
    ----------
    k : int, default 5
        How many guesses a sample has.
    name : str, optional
        In the history; by default ``"top_5"``, with that number.

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
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        integer_fields(self, 1, "k")
        object.__setattr__(self, "name", self.name or f"top_{self.k}")

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return the share as a 0-d array; for the arguments see :func:`accuracy`."""
        xp = array_namespace(prediction)
        if prediction.shape[-1] == 1:
            raise ValueError("TopK needs one output for each class, and the prediction has a single one: use accuracy")
        classes, label = _classes(prediction, _labels(prediction, _fitting(prediction, target)))
        own = xp.max(xp.where(classes == label, prediction, -math.inf), axis=-1, keepdims=True)
        before = (prediction > own) | ((prediction == own) & (classes > label))
        return _share(xp.sum(xp.astype(before, label.dtype), axis=-1) < self.k, prediction, weight)


def _share(right: Array, prediction: Array, weight: Array | None) -> Array:
    """Return the mean of yes and no, by weight."""
    xp = array_namespace(prediction)
    right = xp.astype(right, prediction.dtype if xp.finfo(prediction.dtype).bits >= 32 else xp.float32)
    if weight is None:
        return xp.mean(right)
    weight = in_dtype(weight, right.dtype)
    total = xp.sum(weight)
    return xp.sum(right * weight) / xp.where(total > 0, total, 1.0)


def _fitting(prediction: Array, target: Array) -> Array:
    """Return a target that is a label for each row of several outputs, or has the prediction's shape."""
    shape, wanted = tuple(target.shape), tuple(prediction.shape)
    if shape == wanted[:-1] and wanted[-1] == 1:
        return target[..., None]
    if shape not in (wanted, wanted[:-1]):
        raise ValueError(
            f"the prediction has shape {wanted} and the target {shape}: it needs {wanted[:-1]}, a label for each "
            f"row, or one row for each, {wanted}"
        )
    return target


def _numbers(x: Array, like: Array) -> Array:
    """Return x in another array's dtype: the standard neither orders, ranks nor adds booleans."""
    return in_dtype(x, like.dtype)


def _labels(prediction: Array, target: Array) -> Array:
    """Return the labels of several classes, also from one-hot rows."""
    if target.ndim < prediction.ndim:
        return target
    return array_namespace(prediction).argmax(_numbers(target, prediction), axis=-1)


def _classes(prediction: Array, labels: Array) -> tuple[Array, Array]:
    """Return the numbers of all classes, and labels in a dtype and a shape to be compared with them."""
    xp = array_namespace(prediction)
    classes = xp.arange(prediction.shape[-1], device=device(prediction))
    return classes, xp.expand_dims(in_dtype(labels, classes.dtype), axis=-1)


# ------------------------------------------------------------------------------------- from all of the data


def _rows(prediction: Array, target: Array, weight: Array | None) -> tuple[Array, Array, Array | None]:
    """Return all three with one axis of samples; of at least 32 bits where they are added up."""
    xp = array_namespace(prediction)
    prediction, target = widened(prediction), _fitting(prediction, target)
    width = prediction.shape[-1]
    target = xp.reshape(target, (-1, width) if target.ndim == prediction.ndim else (-1,))
    if weight is not None:
        weight = xp.reshape(_numbers(weight, prediction), (-1, 1))
    return xp.reshape(prediction, (-1, width)), target, weight


def _weighted(x: Array, weight: Array | None) -> Array:
    return x if weight is None else x * weight


_AVERAGES = ("macro", "micro", "weighted")


class _Counting(Metric):
    """What follows from how often each class is predicted, is there, and both."""

    average: str
    multilabel: bool
    threshold: float

    def __post_init__(self) -> None:
        if self.average not in _AVERAGES:
            raise ValueError(f"average must be one of {', '.join(_AVERAGES)}, and is {self.average!r}")
        real_fields(self, "(-inf, inf)", "threshold")

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Count, for each class, where it is predicted and there, predicted, and there."""
        xp = array_namespace(prediction)
        prediction, target, weight = _rows(prediction, target, weight)
        if prediction.shape[-1] == 1 or self.multilabel:
            if target.ndim == 1:
                raise ValueError(f"{type(self).__name__}(multilabel=True) needs a target with 0 or 1 for each label")
            predicted, there = prediction > self.threshold, _numbers(target, prediction) > 0
        else:
            classes, label = _classes(prediction, _labels(prediction, target))
            predicted, there = xp.argmax(prediction, axis=-1, keepdims=True) == classes, label == classes
        counts = [_numbers(x, prediction) for x in (predicted & there, predicted, there)]
        return xp.stack([xp.sum(_weighted(x, weight), axis=0) for x in counts])[None, ...]

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the average over the classes of a ratio of these counts."""
        both, predicted, there = statistics.sum(axis=0)
        if self.average == "micro":
            both, predicted, there = (np.atleast_1d(x.sum()) for x in (both, predicted, there))
        above, below = self.ratio(both, predicted, there)
        ratios = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        if self.average == "weighted":
            return float(ratios @ there / max(there.sum(), np.finfo(float).tiny))
        known = predicted + there > 0
        if len(ratios) > 1 and not self.multilabel and known.any():
            ratios = ratios[known]
        return float(ratios.mean())

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        raise NotImplementedError


@dataclass(frozen=True)
class F1(_Counting):
    r"""The harmonic mean of precision and recall: :math:`2\,TP / (2\,TP + FP + FN)`.

    Classes are told apart by the largest output. A single output is a question of yes or no, and counts yes.

    Parameters
    ----------
    average : {"macro", "micro", "weighted"}, default "macro"
        Over several classes: the mean over classes, the ratio of all counts together, or the mean by how
        often each class is there.
    multilabel : bool, default False
        Whether several outputs are as many questions of yes or no, instead of one of them being right.
    threshold : float, default 0.0
        Above which an output is a yes: 0 for logits, 0.5 for a model that ends in a sigmoid.
    name : str, default "f1"
        In the history.

    Raises
    ------
    ValueError
        If `average` is none of these.

    Notes
    -----
    As in scikit-learn, a ratio of nothing counts as 0, and the mean over classes leaves out those that neither
    occur nor are predicted; of several labels none is left out.

    Examples
    --------
    >>> import numpy as np
    >>> F1()(np.asarray([[2.0], [1.0], [-1.0]]), np.asarray([1, 0, 1]))
    0.5
    """

    average: str = "macro"
    multilabel: bool = field(default=False, kw_only=True)
    threshold: float = field(default=0.0, kw_only=True)
    name: str = field(default="f1", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return 2.0 * both, predicted + there


@dataclass(frozen=True)
class Precision(_Counting):
    r"""The share of what is predicted that is right: :math:`TP / (TP + FP)`.

    Parameters
    ----------
    average, multilabel, threshold, name
        See :class:`F1`.

    Examples
    --------
    >>> import numpy as np
    >>> Precision()(np.asarray([[2.0], [1.0], [-1.0], [3.0]]), np.asarray([1, 0, 1, 0]))
    0.3333333333333333
    """

    average: str = "macro"
    multilabel: bool = field(default=False, kw_only=True)
    threshold: float = field(default=0.0, kw_only=True)
    name: str = field(default="precision", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return both, predicted


@dataclass(frozen=True)
class Recall(_Counting):
    r"""The share of what is there that is found: :math:`TP / (TP + FN)`.

    Parameters
    ----------
    average, multilabel, threshold, name
        See :class:`F1`.

    Examples
    --------
    >>> import numpy as np
    >>> Recall()(np.asarray([[2.0], [1.0], [-1.0]]), np.asarray([1, 0, 1]))
    0.5
    """

    average: str = "macro"
    multilabel: bool = field(default=False, kw_only=True)
    threshold: float = field(default=0.0, kw_only=True)
    name: str = field(default="recall", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return both, there


@dataclass(frozen=True)
class AUC(Metric):
    r"""The area under the ROC curve: how often a yes scores higher than a no, and half of how often they are equal.

    .. math:: P(s_+ > s_-) + P(s_+ = s_-) / 2

    It is exact, from the order of all scores. With several classes it is the mean over them of each class
    against the rest, by the softmax of the outputs.

    Parameters
    ----------
    multilabel : bool, default False
        Whether several outputs are as many questions of yes or no, instead of one of them being right.
    logits : bool, default True
        Whether several classes have logits; False for a model that ends in a softmax.
    name : str, default "auc"
        In the history.

    Notes
    -----
    The scores of all samples are kept until the epoch ends, and are put in order on the host. A class that is
    never there, or always, has no area and is left out of the mean; if there is no other the value is NaN.

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
    logits: bool = field(default=True, kw_only=True)
    name: str = field(default="auc", kw_only=True)

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return a row for each sample: its scores, its label or what it has of each, its weight."""
        xp = array_namespace(prediction)
        prediction, target, weight = _rows(prediction, target, weight)
        if prediction.shape[-1] > 1 and not self.multilabel:
            target = _labels(prediction, target)[:, None]
            if self.logits:
                prediction = log_softmax(prediction)[0]
        elif target.ndim == 1:
            raise ValueError("AUC(multilabel=True) needs a target with 0 or 1 for each label")
        if weight is None:
            weight = xp.ones_like(prediction[:, :1])
        return xp.concat([prediction, _numbers(target, prediction), weight], axis=1)

    def value(self, statistics: np.ndarray[Any, Any]) -> float:
        """Return the area, or the mean over those that there are."""
        columns = statistics.shape[1] - 1
        n_scores = columns // 2 if self.multilabel else columns - 1
        scores, target, weight = statistics[:, :n_scores], statistics[:, n_scores:-1], statistics[:, -1]
        there = target == np.arange(n_scores) if n_scores > target.shape[1] else target > 0
        areas = [_area(*column, weight) for column in zip(scores.T, there.T, strict=True)]
        defined = [area for area in areas if not math.isnan(area)]
        return sum(defined) / len(defined) if defined else math.nan


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
    Of each batch its own mean and the squares around it are kept, and put together by the rule of Chan, Golub
    and LeVeque, so that nothing large cancels. Where a target is constant there is no variance: the value is 1
    for a prediction without error and 0 otherwise, as in scikit-learn.

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

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Return, for each output, the weight, the mean as a sum of two, the squares around it, and the errors'."""
        xp = array_namespace(prediction)
        prediction, target, weight = _rows(prediction, target, weight)
        if target.ndim == 1:
            raise ValueError(
                f"R2 needs a target for each output, and has shape {tuple(target.shape)} for {tuple(prediction.shape)}"
            )
        target = _numbers(target, prediction)
        if weight is None:
            weight = xp.ones_like(prediction[:, :1])
        total = xp.sum(weight)
        some = xp.where(total > 0, total, 1.0)
        first = target[:1, :]  # far from zero only the differences to it have digits enough
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
        explained = 1.0 - np.divide(error, squares, out=np.zeros_like(error), where=squares > 0)
        return float(np.where(squares > 0, explained, error == 0).mean())


# ------------------------------------------------------------------------------------- by name


@dataclass(frozen=True)
class _Unweighted:
    """A function of prediction and target alone."""

    function: Callable[[Array, Array], Array]

    def __call__(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        return self.function(prediction, target)


Measure: TypeAlias = Metric | Statistics
"""A metric, or a function of (prediction, target, weight) that is averaged over batches."""

MetricLike: TypeAlias = str | Metric | Callable[..., Array]
"""What :meth:`dense_xp.Sequential.fit` takes for a metric."""

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
        If it is a class, or nothing that can be called.

    Examples
    --------
    >>> get_metric("top_3")
    ('top_3', TopK(k=3, name='top_3'))
    """
    if isinstance(spec, str):
        if top := re.fullmatch(r"top_([1-9]\d*)", spec):
            return spec, TopK(int(top[1]))
        otherwise = ", a Metric, or a function of (prediction, target) that returns a 0-d array"
        return spec, by_name("metric", _METRICS, spec, otherwise)()
    if isinstance(spec, type):
        raise TypeError(f"{spec.__name__} is a class: pass a metric, {spec.__name__}()")
    if not callable(spec):
        raise TypeError(f"a metric is a name, a Metric or a function of (prediction, target), and this is {spec!r}")
    name = getattr(spec, "name", "") or getattr(spec, "__name__", type(spec).__name__)
    return name, spec if isinstance(spec, Metric) or _takes_weight(spec) else _Unweighted(spec)


def _takes_weight(function: Callable[..., Any]) -> bool:
    try:
        return "weight" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions that are not of Python have no signature
        return False


def named_metrics(specs: Sequence[MetricLike]) -> dict[str, Measure]:
    """Return metrics by their names.

    Raises
    ------
    ValueError, TypeError
        As :func:`get_metric`; and if two have the same name.
    """
    named: dict[str, Measure] = {}
    for name, metric in map(get_metric, specs):
        if name in named or name == "loss":
            raise ValueError(
                f"two measures are called {name!r}: give one another name, as in F1('micro', name='micro')"
            )
        named[name] = metric
    return named


def in_step(metrics: Mapping[str, Measure]) -> tuple[Statistics, ...]:
    """Return what a step computes for metrics: pure functions of (prediction, target, weight)."""
    return tuple(metric.statistics if isinstance(metric, Metric) else metric for metric in metrics.values())
