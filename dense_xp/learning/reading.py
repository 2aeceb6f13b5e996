"""How metrics read predictions and targets: rows of samples, labels, and what is left out."""

from __future__ import annotations

from array_api_compat import array_namespace, device

from dense_xp.backend import Array
from dense_xp.learning.special import counted, row_for
from dense_xp.support.dtypes import in_dtype, widened


def fitting(prediction: Array, target: Array) -> Array:
    """Return a target that has the prediction's shape, or a label for each row of several outputs."""
    shape, wanted = tuple(target.shape), tuple(prediction.shape)
    if shape == wanted[:-1] and wanted[-1] == 1:
        return target[..., None]
    if shape not in (wanted, wanted[:-1]):
        raise ValueError(
            f"the prediction has shape {wanted} and the target {shape}: it needs {wanted[:-1]}, a label for each "
            f"row, or one row for each, {wanted}"
        )
    return target


def numbers(x: Array, like: Array) -> Array:
    """Return x in another array's dtype: the Array API standard has no order and no sum for booleans."""
    return in_dtype(x, like.dtype)


def labels_of(prediction: Array, target: Array) -> Array:
    """Return the labels of several classes, also from one-hot rows."""
    if target.ndim < prediction.ndim:
        return target
    return array_namespace(prediction).argmax(numbers(target, prediction), axis=-1)


def classes_of(prediction: Array, labels: Array) -> tuple[Array, Array]:
    """Return the numbers of all classes, and labels in a dtype and a shape to be compared with them."""
    xp = array_namespace(prediction)
    classes = row_for(xp.arange(prediction.shape[-1], device=device(prediction)), prediction)
    return classes, xp.expand_dims(in_dtype(labels, classes.dtype), axis=-1)


def rows_of(prediction: Array, target: Array, weight: Array | None) -> tuple[Array, Array, Array | None]:
    """Return all three with one axis of samples; of at least 32 bits where they are added up."""
    xp = array_namespace(prediction)
    prediction, target = widened(prediction), fitting(prediction, target)
    width = prediction.shape[-1]
    target = xp.reshape(target, (-1, width) if target.ndim == prediction.ndim else (-1,))
    if weight is not None:
        weight = xp.reshape(numbers(weight, prediction), (-1, 1))
    return xp.reshape(prediction, (-1, width)), target, weight


def kept(prediction: Array, target: Array, ignored: int | None, several: bool = False) -> Array | None:
    """Return 0 where the target is the ignored label and 1 elsewhere; None if no label is ignored.

    Parameters
    ----------
    prediction, target : array
        From :func:`rows_of`.
    ignored : int, optional
        The label that is left out; a one-hot row has none.
    several : bool
        Whether each sample has several labels.
    """
    one_hot = target.ndim == prediction.ndim and prediction.shape[-1] > 1 and not several
    if ignored is None or one_hot:
        return None
    counts = numbers(numbers(target, prediction) != ignored, prediction)
    return counts[:, None] if target.ndim == 1 else counts


def times(weight: Array | None, other: Array | None) -> Array | None:
    """Return the product of two weights; None stands for 1."""
    if weight is None or other is None:
        return other if weight is None else weight
    return weight * other


def weighted(x: Array, weight: Array | None) -> Array:
    """Return x times its weight, which may be None."""
    return x if weight is None else counted(weight, x)
