"""The fully connected layer on every array library: the same code, the same numbers."""

import importlib
from typing import TYPE_CHECKING, Any

import dense_xp.starting  # noqa: F401  before all that takes time
from dense_xp.backend import (
    Backend,
    BackendError,
    ConflictingPackagesError,
    ForeignArrayError,
    ImportFailedError,
    NoDeviceError,
    NotInstalledError,
    UnknownBackendError,
    available_backends,
    backend_of,
    get_backend,
    set_backend,
    show_config,
    to_numpy,
    use_backend,
)
from dense_xp.layers.activations import ELU, GELU, SELU, LeakyReLU, Mish, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.ensemble import DenseEnsemble, EnsembleMean
from dense_xp.layers.initializers import (
    Constant,
    EachMember,
    FanInUniform,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    LeCunNormal,
    LeCunUniform,
    Orthogonal,
    RandomNormal,
    RandomUniform,
    Zeros,
)
from dense_xp.layers.layer import Layer
from dense_xp.layers.lora import LoRA, add_lora, merge_lora
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.layers.piecewise import PiecewiseLinear, quantile_edges
from dense_xp.layers.quantization import QuantizedDense, quantize
from dense_xp.layers.scaling import RobustScale
from dense_xp.learning.constraints import MaxNorm, MinMaxNorm, NonNegative, UnitNorm
from dense_xp.learning.counts import F1, FBeta, Precision, Recall
from dense_xp.learning.distributions import Gamma, GaussianNLL, Poisson, Quantile, Tweedie
from dense_xp.learning.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from dense_xp.learning.metric import Metric
from dense_xp.learning.metrics import AUC, R2, Accuracy, TopK, accuracy
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import SGD, Adagrad, Adam, AdamW, Lion, RMSprop
from dense_xp.learning.regularizers import L1, L1L2, L2, Regularizer, SoftOrthogonality
from dense_xp.learning.schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    ScaledSchedule,
    Schedule,
    StepSchedule,
    WarmUp,
)
from dense_xp.saving import Checkpoint, ModelFileError, describe, load, save
from dense_xp.training.averaging import MovingAverage
from dense_xp.training.callbacks import CSVLog, EarlyStopping, ReduceLROnPlateau, TensorBoard
from dense_xp.training.history import Callback, DivergenceError, History, Run
from dense_xp.training.sequential import Sequential

if TYPE_CHECKING:
    from dense_xp.tables.parquet import ParquetRows
    from dense_xp.training.distributed.ranks import RankError, Ranks

_LATER = {
    "ParquetRows": "dense_xp.tables.parquet",
    "RankError": "dense_xp.training.distributed.ranks",
    "Ranks": "dense_xp.training.distributed.ranks",
}
"""Where names are that few programs need: with them come the tables, and the training on several processes."""

__version__ = "0.1.0"

__all__ = [
    "AUC", "ELU", "F1", "GELU", "L1", "L1L2", "L2", "R2", "SELU", "SGD", "Accuracy", "Adagrad", "Adam", "AdamW",
    "Backend", "BackendError", "BatchNorm", "CSVLog", "Callback", "Checkpoint", "ConflictingPackagesError", "Constant",
    "ConstantSchedule", "CosineSchedule", "Dense", "DenseEnsemble", "DivergenceError", "Dropout", "EachMember",
    "EarlyStopping", "EnsembleMean", "ExponentialSchedule", "FBeta", "FanInUniform", "ForeignArrayError", "Gamma",
    "GaussianNLL", "GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "History", "Huber", "ImportFailedError",
    "Layer", "LayerNorm", "LeCunNormal", "LeCunUniform", "LeakyReLU", "Lion", "LoRA", "Loss", "MaxNorm",
    "MeanAbsoluteError", "MeanSquaredError", "Metric", "MinMaxNorm", "Mish", "ModelFileError", "MovingAverage",
    "NoDeviceError", "NonNegative", "NotInstalledError", "Optimizer", "Orthogonal", "ParquetRows", "PiecewiseLinear",
    "Poisson", "Precision", "Quantile", "QuantizedDense", "RMSprop", "RandomNormal", "RandomUniform", "RankError",
    "Ranks", "ReLU", "Recall", "ReduceLROnPlateau", "Regularizer", "RobustScale", "Run", "ScaledSchedule", "Schedule",
    "Sequential", "SiLU", "Sigmoid", "SigmoidCrossEntropy", "SoftOrthogonality", "Softmax", "SoftmaxCrossEntropy",
    "Softplus", "StepSchedule", "Tanh", "TensorBoard", "TopK", "Tweedie", "UnitNorm", "UnknownBackendError", "WarmUp",
    "Zeros", "accuracy", "add_lora", "available_backends", "backend_of", "describe", "get_backend", "load",
    "merge_lora", "quantile_edges", "quantize", "save", "set_backend", "show_config", "to_numpy", "use_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
