"""Metrics from three counts for each class: how often it is predicted, is the true one, and both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.learning.metric import Metric, Value
from dense_xp.learning.reading import classes_of, kept, labels_of, numbers, rows_of, times, weighted
from dense_xp.support.checks import Checked, Ranges

_AVERAGES = ("macro", "micro", "weighted", None)


class _Counting(Checked, Metric):
    """Base class of metrics from these counts."""

    average: str | None
    multilabel: bool
    threshold: float | None
    ignore_index: int | None
    greater_is_better: ClassVar[bool] = True
    ranges: ClassVar[Ranges] = {"threshold": "(-inf, inf)", "ignore_index": None}

    def __post_init__(self) -> None:
        if not isinstance(self.average, str | None) or self.average not in _AVERAGES:
            raise ValueError(f"average must be 'macro', 'micro', 'weighted' or None, and is {self.average!r}")
        super().__post_init__()

    def statistics(self, prediction: Array, target: Array, weight: Array | None = None) -> Array:
        """Count, for each class, where it is predicted and true, predicted, true, and any of these."""
        xp = array_namespace(prediction)
        prediction, target, weight = rows_of(prediction, target, weight)
        counts = kept(prediction, target, self.ignore_index, self.multilabel)
        weight = times(weight, counts)
        if prediction.shape[-1] == 1 or self.multilabel:
            if target.ndim == 1:
                raise ValueError(f"{type(self).__name__}(multilabel=True) needs a target with 0 or 1 for each label")
            predicted, there = prediction > (self.threshold or 0.0), numbers(target, prediction) > 0
        else:
            classes, label = classes_of(prediction, labels_of(prediction, target))
            predicted, there = xp.argmax(prediction, axis=-1, keepdims=True) == classes, label == classes
        unknown = xp.isnan(prediction)  # a NaN is no answer
        sums = [
            weighted(xp.where(unknown, math.nan, numbers(x, prediction)), weight)
            for x in (predicted & there, predicted, there)
        ]
        occurs = weighted(numbers(predicted | there, prediction), counts)
        return xp.stack([xp.sum(x, axis=0) for x in (*sums, occurs)])[None, ...]

    def value(self, statistics: np.ndarray[Any, Any]) -> Value:
        """Return the average over the classes of a ratio of these counts, or the ratios."""
        both, predicted, there, occurs = statistics.sum(axis=0)
        if np.isnan(both).any():
            return math.nan if self.average else np.full_like(both, math.nan)
        if self.average == "micro":
            both, predicted, there = (np.atleast_1d(x.sum()) for x in (both, predicted, there))
        above, below = self.ratio(both, predicted, there)
        ratios: np.ndarray[Any, Any] = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        if self.average is None:
            return ratios
        if self.average == "weighted":
            return float(ratios @ there / max(there.sum(), np.finfo(float).tiny))
        if len(ratios) > 1 and not self.multilabel and self.average == "macro":
            ratios = ratios[occurs > 0]
        return float(ratios.mean())

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Averaged(_Counting):
    average: str | None = "macro"
    multilabel: bool = field(default=False, kw_only=True)
    threshold: float | None = field(default=None, kw_only=True)
    ignore_index: int | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class F1(_Averaged):
    r"""The harmonic mean of precision and recall: :math:`2\,TP / (2\,TP + FP + FN)`.

    The predicted class is that of the largest output. A single output is binary: the positive class is counted.

    Parameters
    ----------
    average : {"macro", "micro", "weighted"} or None, default "macro"
        Over several classes: the mean over classes, the ratio of the summed counts, or the mean weighted by how often
        each class is true. None gives one value for each class, and the history a column for each: ``"f1_0"``.
    multilabel : bool, default False
        Whether the outputs are independent binary labels, instead of classes of which one is true.
    threshold : float, optional
        Above which an output is positive. By default 0, for logits; in training, 0.5 for a model that ends in a
        sigmoid.
    ignore_index : int, optional
        The label of samples that are left out; with `multilabel`, of single entries that are left out.
    name : str, default "f1"
        In the history.

    Raises
    ------
    ValueError
        If `average` is none of these.

    Notes
    -----
    As in scikit-learn, 0/0 counts as 0, and the mean over classes leaves out those that neither occur nor are
    predicted; with `multilabel`, none is left out.

    Examples
    --------
    >>> import numpy as np
    >>> F1()(np.asarray([[2.0], [1.0], [-1.0]]), np.asarray([1, 0, 1]))
    0.5
    """

    name: str = field(default="f1", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return 2.0 * both, predicted + there


@dataclass(frozen=True)
class FBeta(_Counting):
    r"""Precision and recall in one number, recall counting :math:`β^2` times as much.

    .. math:: \frac{(1 + β^2)\,TP}{(1 + β^2)\,TP + FP + β^2\,FN}

    Parameters
    ----------
    beta : float
        Positive; 1 is :class:`F1`.
    average, multilabel, threshold, ignore_index
        See :class:`F1`.
    name : str, optional
        In the history; by default ``"f2"`` for ``beta=2``.

    References
    ----------
    .. [1] C. J. van Rijsbergen, *Information Retrieval*, 2nd ed., Butterworths 1979, ch. 7.

    Examples
    --------
    >>> import numpy as np
    >>> FBeta(2.0)(np.asarray([[2.0], [1.0], [-1.0], [3.0]]), np.asarray([1, 0, 1, 0]))
    0.45454545454545453
    """

    beta: float
    average: str | None = "macro"
    multilabel: bool = field(default=False, kw_only=True)
    threshold: float | None = field(default=None, kw_only=True)
    ignore_index: int | None = field(default=None, kw_only=True)
    name: str = field(default="", kw_only=True)
    ranges: ClassVar[Ranges] = {"beta": "(0, inf)"}

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", self.name or f"f{self.beta:g}")

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        square = self.beta**2
        return (1.0 + square) * both, predicted + square * there


@dataclass(frozen=True)
class Precision(_Averaged):
    r"""The share of predicted positives that are true: :math:`TP / (TP + FP)`.

    Parameters
    ----------
    average, multilabel, threshold, ignore_index, name
        See :class:`F1`.

    Examples
    --------
    >>> import numpy as np
    >>> Precision()(np.asarray([[2.0], [1.0], [-1.0], [3.0]]), np.asarray([1, 0, 1, 0]))
    0.3333333333333333
    """

    name: str = field(default="precision", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return both, predicted


@dataclass(frozen=True)
class Recall(_Averaged):
    r"""The share of actual positives that are found: :math:`TP / (TP + FN)`.

    Parameters
    ----------
    average, multilabel, threshold, ignore_index, name
        See :class:`F1`.

    Examples
    --------
    >>> import numpy as np
    >>> Recall()(np.asarray([[2.0], [1.0], [-1.0]]), np.asarray([1, 0, 1]))
    0.5
    """

    name: str = field(default="recall", kw_only=True)

    def ratio(self, both: Any, predicted: Any, there: Any) -> tuple[Any, Any]:
        """Return numerator and denominator."""
        return both, there
