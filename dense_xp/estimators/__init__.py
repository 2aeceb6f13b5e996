"""Perceptrons as scikit-learn's estimators: trained on any backend, and used also where that is missing.

They are thin: scikit-learn validates, :class:`~dense_xp.Sequential` learns. What they add are scikit-learn's rules
(what is fixed in ``__init__``, what ``fit`` leaves behind), labels of any kind, and pickles that know no device.
"""

try:  # before the files behind this face need it
    from sklearn.utils.validation import validate_data as _validate_data  # noqa: F401 - old ones have it not
except ImportError as error:
    raise ImportError(
        'dense_xp.estimators needs scikit-learn, 1.8 or later: run  pip install "dense-xp[sklearn]"'
    ) from error

from dense_xp.estimators.classifier import DenseClassifier
from dense_xp.estimators.regressor import DenseRegressor

__all__ = ["DenseClassifier", "DenseRegressor"]
