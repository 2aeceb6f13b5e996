"""The public names, for type checkers and editors."""

from dense_xp.backend import (
    Backend as Backend,
)
from dense_xp.backend import (
    BackendError as BackendError,
)
from dense_xp.backend import (
    ConflictingPackagesError as ConflictingPackagesError,
)
from dense_xp.backend import (
    ForeignArrayError as ForeignArrayError,
)
from dense_xp.backend import (
    ImportFailedError as ImportFailedError,
)
from dense_xp.backend import (
    NoDeviceError as NoDeviceError,
)
from dense_xp.backend import (
    NotInstalledError as NotInstalledError,
)
from dense_xp.backend import (
    UnknownBackendError as UnknownBackendError,
)
from dense_xp.backend import (
    available_backends as available_backends,
)
from dense_xp.backend import (
    backend_of as backend_of,
)
from dense_xp.backend import (
    get_backend as get_backend,
)
from dense_xp.backend import (
    set_backend as set_backend,
)
from dense_xp.backend import (
    show_config as show_config,
)
from dense_xp.backend import (
    to_numpy as to_numpy,
)
from dense_xp.backend import (
    use_backend as use_backend,
)
from dense_xp.layers.activations import (
    ELU as ELU,
)
from dense_xp.layers.activations import (
    GELU as GELU,
)
from dense_xp.layers.activations import (
    SELU as SELU,
)
from dense_xp.layers.activations import (
    LeakyReLU as LeakyReLU,
)
from dense_xp.layers.activations import (
    Mish as Mish,
)
from dense_xp.layers.activations import (
    ReLU as ReLU,
)
from dense_xp.layers.activations import (
    Sigmoid as Sigmoid,
)
from dense_xp.layers.activations import (
    SiLU as SiLU,
)
from dense_xp.layers.activations import (
    Softmax as Softmax,
)
from dense_xp.layers.activations import (
    Softplus as Softplus,
)
from dense_xp.layers.activations import (
    Tanh as Tanh,
)
from dense_xp.layers.dense import Dense as Dense
from dense_xp.layers.dropout import Dropout as Dropout
from dense_xp.layers.ensemble import DenseEnsemble as DenseEnsemble
from dense_xp.layers.ensemble import EnsembleMean as EnsembleMean
from dense_xp.layers.initializers import (
    Constant as Constant,
)
from dense_xp.layers.initializers import (
    EachMember as EachMember,
)
from dense_xp.layers.initializers import (
    FanInUniform as FanInUniform,
)
from dense_xp.layers.initializers import (
    GlorotNormal as GlorotNormal,
)
from dense_xp.layers.initializers import (
    GlorotUniform as GlorotUniform,
)
from dense_xp.layers.initializers import (
    HeNormal as HeNormal,
)
from dense_xp.layers.initializers import (
    HeUniform as HeUniform,
)
from dense_xp.layers.initializers import (
    LeCunNormal as LeCunNormal,
)
from dense_xp.layers.initializers import (
    LeCunUniform as LeCunUniform,
)
from dense_xp.layers.initializers import (
    Orthogonal as Orthogonal,
)
from dense_xp.layers.initializers import (
    RandomNormal as RandomNormal,
)
from dense_xp.layers.initializers import (
    RandomUniform as RandomUniform,
)
from dense_xp.layers.initializers import (
    Zeros as Zeros,
)
from dense_xp.layers.layer import Layer as Layer
from dense_xp.layers.lora import LoRA as LoRA
from dense_xp.layers.lora import add_lora as add_lora
from dense_xp.layers.lora import merge_lora as merge_lora
from dense_xp.layers.normalization import BatchNorm as BatchNorm
from dense_xp.layers.normalization import LayerNorm as LayerNorm
from dense_xp.layers.piecewise import PiecewiseLinear as PiecewiseLinear
from dense_xp.layers.piecewise import quantile_edges as quantile_edges
from dense_xp.layers.quantization import QuantizedDense as QuantizedDense
from dense_xp.layers.quantization import quantize as quantize
from dense_xp.layers.scaling import RobustScale as RobustScale
from dense_xp.learning.constraints import (
    MaxNorm as MaxNorm,
)
from dense_xp.learning.constraints import (
    MinMaxNorm as MinMaxNorm,
)
from dense_xp.learning.constraints import (
    NonNegative as NonNegative,
)
from dense_xp.learning.constraints import (
    UnitNorm as UnitNorm,
)
from dense_xp.learning.counts import F1 as F1
from dense_xp.learning.counts import FBeta as FBeta
from dense_xp.learning.counts import Precision as Precision
from dense_xp.learning.counts import Recall as Recall
from dense_xp.learning.distributions import (
    Gamma as Gamma,
)
from dense_xp.learning.distributions import (
    GaussianNLL as GaussianNLL,
)
from dense_xp.learning.distributions import (
    Poisson as Poisson,
)
from dense_xp.learning.distributions import (
    Quantile as Quantile,
)
from dense_xp.learning.distributions import (
    Tweedie as Tweedie,
)
from dense_xp.learning.losses import (
    Huber as Huber,
)
from dense_xp.learning.losses import (
    Loss as Loss,
)
from dense_xp.learning.losses import (
    MeanAbsoluteError as MeanAbsoluteError,
)
from dense_xp.learning.losses import (
    MeanSquaredError as MeanSquaredError,
)
from dense_xp.learning.losses import (
    SigmoidCrossEntropy as SigmoidCrossEntropy,
)
from dense_xp.learning.losses import (
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
)
from dense_xp.learning.metric import Metric as Metric
from dense_xp.learning.metrics import AUC as AUC
from dense_xp.learning.metrics import R2 as R2
from dense_xp.learning.metrics import Accuracy as Accuracy
from dense_xp.learning.metrics import TopK as TopK
from dense_xp.learning.metrics import accuracy as accuracy
from dense_xp.learning.optimizer import Optimizer as Optimizer
from dense_xp.learning.optimizers import (
    SGD as SGD,
)
from dense_xp.learning.optimizers import (
    Adagrad as Adagrad,
)
from dense_xp.learning.optimizers import (
    Adam as Adam,
)
from dense_xp.learning.optimizers import (
    AdamW as AdamW,
)
from dense_xp.learning.optimizers import (
    Lion as Lion,
)
from dense_xp.learning.optimizers import (
    RMSprop as RMSprop,
)
from dense_xp.learning.regularizers import (
    L1 as L1,
)
from dense_xp.learning.regularizers import (
    L1L2 as L1L2,
)
from dense_xp.learning.regularizers import (
    L2 as L2,
)
from dense_xp.learning.regularizers import (
    Regularizer as Regularizer,
)
from dense_xp.learning.regularizers import (
    SoftOrthogonality as SoftOrthogonality,
)
from dense_xp.learning.schedules import (
    ConstantSchedule as ConstantSchedule,
)
from dense_xp.learning.schedules import (
    CosineSchedule as CosineSchedule,
)
from dense_xp.learning.schedules import (
    ExponentialSchedule as ExponentialSchedule,
)
from dense_xp.learning.schedules import (
    ScaledSchedule as ScaledSchedule,
)
from dense_xp.learning.schedules import (
    Schedule as Schedule,
)
from dense_xp.learning.schedules import (
    StepSchedule as StepSchedule,
)
from dense_xp.learning.schedules import (
    WarmUp as WarmUp,
)
from dense_xp.saving import (
    Checkpoint as Checkpoint,
)
from dense_xp.saving import (
    ModelFileError as ModelFileError,
)
from dense_xp.saving import (
    describe as describe,
)
from dense_xp.saving import (
    load as load,
)
from dense_xp.saving import (
    save as save,
)
from dense_xp.tables.parquet import ParquetRows as ParquetRows
from dense_xp.training.averaging import MovingAverage as MovingAverage
from dense_xp.training.callbacks import (
    CSVLog as CSVLog,
)
from dense_xp.training.callbacks import (
    EarlyStopping as EarlyStopping,
)
from dense_xp.training.callbacks import (
    ReduceLROnPlateau as ReduceLROnPlateau,
)
from dense_xp.training.callbacks import (
    TensorBoard as TensorBoard,
)
from dense_xp.training.distributed.ranks import RankError as RankError
from dense_xp.training.distributed.ranks import Ranks as Ranks
from dense_xp.training.history import (
    Callback as Callback,
)
from dense_xp.training.history import (
    DivergenceError as DivergenceError,
)
from dense_xp.training.history import (
    History as History,
)
from dense_xp.training.history import (
    Run as Run,
)
from dense_xp.training.sequential import Sequential as Sequential

__version__: str
