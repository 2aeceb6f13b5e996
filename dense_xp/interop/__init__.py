"""Models to and from other libraries: ONNX, PyTorch, Keras, scikit-learn; one file for each.

``import dense_xp`` does not import this package, and this package imports none of those libraries before a
function that needs one is called.
"""

from dense_xp.interop.keras import from_keras
from dense_xp.interop.onnx import export_onnx
from dense_xp.interop.sklearn import from_sklearn
from dense_xp.interop.torch import from_torch, to_torch

__all__ = ["export_onnx", "from_keras", "from_sklearn", "from_torch", "to_torch"]
