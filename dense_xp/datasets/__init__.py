"""The data that come with the package: small enough to ship, real enough to learn from."""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np


def load_digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return 1,797 images of handwritten digits and their labels.

    Returns
    -------
    images : numpy.ndarray of float32, shape (1797, 64)
        8×8 pixels, row by row, from 0 (paper) to 1 (ink) in steps of 1/16.
    labels : numpy.ndarray of int64, shape (1797,)
        The digit, 0 to 9.

    References
    ----------
    .. [1] E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
       Repository, 1998, https://doi.org/10.24432/C50P49 (CC BY 4.0).

    Examples
    --------
    >>> images, labels = load_digits()
    >>> images.shape, labels[:5]
    ((1797, 64), array([0, 1, 2, 3, 4]))
    """
    path = resources.files(__name__).joinpath("digits.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return archive["images"].astype("float32") / np.float32(16), archive["labels"].astype("int64")
