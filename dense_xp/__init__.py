"""The fully connected layer on every array library: the same code, the same numbers."""

from dense_xp.activations import ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
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
from dense_xp.callbacks import Checkpoint, CSVLog, EarlyStopping, ReduceLROnPlateau, TensorBoard
from dense_xp.constraints import MaxNorm, MinMaxNorm, NonNegative, UnitNorm
from dense_xp.dense import Dense
from dense_xp.dropout import Dropout
from dense_xp.history import Callback, DivergenceError, History, Run
from dense_xp.initializers import (
    Constant,
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
from dense_xp.layer import Layer
from dense_xp.lora import LoRA, add_lora, merge_lora
from dense_xp.losses import (
    Huber,
    Loss,
    MeanAbsoluteError,
    MeanSquaredError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from dense_xp.metrics import AUC, F1, R2, Metric, Precision, Recall, TopK, accuracy
from dense_xp.normalization import BatchNorm, LayerNorm
from dense_xp.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Optimizer, RMSprop
from dense_xp.quantization import QuantizedDense, quantize
from dense_xp.regularizers import L1, L1L2, L2, Regularizer, SoftOrthogonality
from dense_xp.saving import ModelFileError, describe, load, save
from dense_xp.schedules import (
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    ScaledSchedule,
    Schedule,
    StepSchedule,
    WarmUp,
)
from dense_xp.sequential import Sequential

__version__ = "0.1.0"

__all__ = [
    "AUC", "ELU", "F1", "GELU", "L1", "L1L2", "L2", "R2", "SGD", "Adagrad", "Adam", "AdamW", "Backend",
    "BackendError", "BatchNorm", "CSVLog", "Callback", "Checkpoint", "ConflictingPackagesError", "Constant",
    "ConstantSchedule", "CosineSchedule", "Dense", "DivergenceError", "Dropout", "EarlyStopping",
    "ExponentialSchedule", "FanInUniform", "ForeignArrayError", "GlorotNormal", "GlorotUniform", "HeNormal",
    "HeUniform", "History", "Huber", "ImportFailedError", "Layer", "LayerNorm", "LeCunNormal", "LeCunUniform",
    "LeakyReLU", "Lion", "LoRA", "Loss", "MaxNorm", "MeanAbsoluteError", "MeanSquaredError", "Metric",
    "MinMaxNorm", "ModelFileError", "NoDeviceError", "NonNegative", "NotInstalledError", "Optimizer", "Orthogonal",
    "Precision", "QuantizedDense", "RMSprop", "RandomNormal", "RandomUniform", "ReLU", "Recall",
    "ReduceLROnPlateau", "Regularizer", "Run", "ScaledSchedule", "Schedule", "Sequential", "SiLU", "Sigmoid",
    "SigmoidCrossEntropy", "SoftOrthogonality", "Softmax", "SoftmaxCrossEntropy", "Softplus", "StepSchedule",
    "Tanh", "TensorBoard", "TopK", "UnitNorm", "UnknownBackendError", "WarmUp", "Zeros", "accuracy", "add_lora",
    "available_backends", "backend_of", "describe", "get_backend", "load", "merge_lora", "quantize", "save",
    "set_backend", "show_config", "to_numpy", "use_backend",
]  # fmt: skip
