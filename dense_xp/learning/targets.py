"""Checks of class targets and class weights, once before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.support.checks import real
from dense_xp.support.dtypes import in_dtype, widened


def checked_class_weight(given: Any) -> tuple[float, ...]:
    """Return a number for each class.

    Parameters
    ----------
    given : sequence of float
        In the order of the classes.

    Raises
    ------
    ValueError
        If it is not such a sequence, a number is negative, or all are zero.
    """
    try:
        by_class = isinstance(given, Mapping | str | bytes)  # whose keys or letters would be taken for weights
        weights = () if by_class else tuple(real("class_weight", float(weight), "[0, inf)") for weight in given)
    except (TypeError, ValueError):
        weights = ()
    if not any(weights):
        raise ValueError(
            f"class_weight must hold a number for each class, in order, none negative and not all zero: {given!r}"
        )
    return weights


def check_classes(target: Array, sample_shape: tuple[int, ...], ignored: int | None = None) -> None:
    """Look at labels, or at rows of probabilities, of all samples.

    Parameters
    ----------
    target : array, shape (n_samples, ...)
        All targets.
    sample_shape : tuple of int
        Shape of the prediction for one sample; the last axis has the classes.
    ignored : int, optional
        The label of samples that are left out.

    Raises
    ------
    ValueError
        If shape, dtype or values do not fit.
    """
    xp, n_classes = array_namespace(target), sample_shape[-1]
    shape = tuple(target.shape[1:])
    if shape == sample_shape[:-1]:
        if not xp.isdtype(target.dtype, "integral"):
            raise ValueError(f"class labels must be integers, and y has dtype {target.dtype}: y.astype('int64')")
        if ignored is not None:
            wide = in_dtype(target, xp.arange(1).dtype)  # in an unsigned dtype -100 would be another label
            if not bool(xp.any(wide != ignored)):
                raise ValueError(
                    f"every label is {ignored}, which ignore_index leaves out: nothing is left to learn from"
                )
            target = xp.where(wide == ignored, xp.zeros_like(wide), wide)
        low, high = int(xp.min(target)), int(xp.max(target))
        if low < 0 or high >= n_classes:
            raise ValueError(
                f"y holds the label {low if low < 0 else high}, and the {n_classes} classes are labelled "
                f"0 to {n_classes - 1}"
            )
    elif shape == sample_shape and ignored is not None:
        raise ValueError("ignore_index is for labels, and each row of y has probabilities: let such samples weigh 0")
    elif shape != sample_shape:
        n = target.shape[0]
        raise ValueError(
            f"y has shape {tuple(target.shape)}, and SoftmaxCrossEntropy needs labels of shape "
            f"{(n, *sample_shape[:-1])} or one-hot rows of shape {(n, *sample_shape)}"
        )
    else:
        rows = widened(target) if xp.isdtype(target.dtype, "real floating") else xp.astype(target, xp.float32)
        if bool(xp.any(rows < 0)) or bool(xp.any(xp.abs(xp.sum(rows, axis=-1) - 1) > 1e-3)):
            raise ValueError("each row of one-hot targets must be probabilities: not negative, with sum 1")
