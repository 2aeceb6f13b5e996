"""Perceptrons as scikit-learn estimators: trained on any backend, and usable without it.

They are thin: scikit-learn validates, :class:`~dense_xp.Sequential` learns. They add scikit-learn's rules (parameters
in ``__init__``, fitted attributes in ``fit``), labels of any kind, and pickles that need no device.
"""

try:  # before the modules below need it
    from sklearn.utils.validation import validate_data as _validate_data  # noqa: F401 - old versions lack it
except ImportError as error:
    raise ImportError(
        'dense_xp.estimators needs scikit-learn, 1.8 or later: run  pip install "dense-xp[sklearn]"'
    ) from error

from dense_xp.estimators.classifier import DenseClassifier
from dense_xp.estimators.regressor import DenseRegressor

__all__ = ["DenseClassifier", "DenseRegressor"]
