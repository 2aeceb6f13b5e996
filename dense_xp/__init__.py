"""The fully connected layer on every array library: the same code, the same numbers."""

import importlib
from typing import Any

import dense_xp.starting  # noqa: F401  before the slow imports

__version__ = "0.1.0"

_CHAPTERS = {
    "backend": (
        "available_backends Backend backend_of BackendError ConflictingPackagesError ForeignArrayError get_backend "
        "ImportFailedError NoDeviceError NotInstalledError set_backend show_config to_numpy UnknownBackendError "
        "use_backend"
    ),
    "layers.activations": "ELU GELU LeakyReLU Mish ReLU SELU Sigmoid SiLU Softmax Softplus Tanh",
    "layers.dense": "Dense",
    "layers.dropout": "Dropout",
    "layers.ensemble": "DenseEnsemble EnsembleMean",
    "layers.initializers": (
        "Constant EachMember FanInUniform GlorotNormal GlorotUniform HeNormal HeUniform LeCunNormal LeCunUniform "
        "Orthogonal RandomNormal RandomUniform Zeros"
    ),
    "layers.layer": "Layer",
    "layers.lora": "add_lora LoRA merge_lora",
    "layers.normalization": "BatchNorm LayerNorm",
    "layers.piecewise": "PiecewiseLinear quantile_edges",
    "layers.quantization": "quantize QuantizedDense",
    "layers.scaling": "RobustScale",
    "learning.constraints": "MaxNorm MinMaxNorm NonNegative UnitNorm",
    "learning.counts": "F1 FBeta Precision Recall",
    "learning.distributions": "Gamma GaussianNLL Poisson Quantile Tweedie",
    "learning.losses": "Huber Loss MeanAbsoluteError MeanSquaredError SigmoidCrossEntropy SoftmaxCrossEntropy",
    "learning.metric": "Metric",
    "learning.metrics": "Accuracy accuracy AUC R2 TopK",
    "learning.optimizer": "Optimizer",
    "learning.optimizers": "Adagrad Adam AdamW Lion RMSprop SGD",
    "learning.regularizers": "L1 L1L2 L2 Regularizer SoftOrthogonality",
    "learning.schedules": (
        "ConstantSchedule CosineSchedule ExponentialSchedule ScaledSchedule Schedule StepSchedule WarmUp"
    ),
    "saving": "Checkpoint describe load ModelFileError save",
    "tables.parquet": "ParquetRows",
    "training.averaging": "MovingAverage",
    "training.callbacks": "CSVLog EarlyStopping ReduceLROnPlateau TensorBoard",
    "training.distributed.ranks": "RankError Ranks",
    "training.history": "Callback DivergenceError History Run",
    "training.sequential": "Sequential",
}
"""The public names of each module, which is imported at their first use; ``__init__.pyi`` lists them too."""

_WHERE = {name: chapter for chapter, names in _CHAPTERS.items() for name in names.split()}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"dense_xp.{_WHERE[name]}"), name)
    elif any(chapter.split(".")[0] == name for chapter in _CHAPTERS):
        value = importlib.import_module(f"dense_xp.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
