"""The public names, for type checkers and editors."""

from dense_xp.backend import (
    Backend as Backend,
    BackendError as BackendError,
    ConflictingPackagesError as ConflictingPackagesError,
    ForeignArrayError as ForeignArrayError,
    ImportFailedError as ImportFailedError,
    NoDeviceError as NoDeviceError,
    NotInstalledError as NotInstalledError,
    UnknownBackendError as UnknownBackendError,
    available_backends as available_backends,
    backend_of as backend_of,
    get_backend as get_backend,
    set_backend as set_backend,
    show_config as show_config,
    to_numpy as to_numpy,
    use_backend as use_backend,
)
from dense_xp.layers.activations import (
    ELU as ELU,
    GELU as GELU,
    SELU as SELU,
    LeakyReLU as LeakyReLU,
    Mish as Mish,
    ReLU as ReLU,
    Sigmoid as Sigmoid,
    SiLU as SiLU,
    Softmax as Softmax,
    Softplus as Softplus,
    Tanh as Tanh,
)
from dense_xp.layers.dense import Dense as Dense
from dense_xp.layers.dropout import Dropout as Dropout
from dense_xp.layers.ensemble import DenseEnsemble as DenseEnsemble, EnsembleMean as EnsembleMean
from dense_xp.layers.initializers import (
    Constant as Constant,
    EachMember as EachMember,
    FanInUniform as FanInUniform,
    GlorotNormal as GlorotNormal,
    GlorotUniform as GlorotUniform,
    HeNormal as HeNormal,
    HeUniform as HeUniform,
    LeCunNormal as LeCunNormal,
    LeCunUniform as LeCunUniform,
    Orthogonal as Orthogonal,
    RandomNormal as RandomNormal,
    RandomUniform as RandomUniform,
    Zeros as Zeros,
)
from dense_xp.layers.layer import Layer as Layer
from dense_xp.layers.lora import LoRA as LoRA, add_lora as add_lora, merge_lora as merge_lora
from dense_xp.layers.normalization import BatchNorm as BatchNorm, LayerNorm as LayerNorm
from dense_xp.layers.piecewise import PiecewiseLinear as PiecewiseLinear, quantile_edges as quantile_edges
from dense_xp.layers.quantization import QuantizedDense as QuantizedDense, quantize as quantize
from dense_xp.layers.scaling import RobustScale as RobustScale
from dense_xp.learning.constraints import (
    MaxNorm as MaxNorm,
    MinMaxNorm as MinMaxNorm,
    NonNegative as NonNegative,
    UnitNorm as UnitNorm,
)
from dense_xp.learning.counts import F1 as F1, FBeta as FBeta, Precision as Precision, Recall as Recall
from dense_xp.learning.distributions import (
    Gamma as Gamma,
    GaussianNLL as GaussianNLL,
    Poisson as Poisson,
    Quantile as Quantile,
    Tweedie as Tweedie,
)
from dense_xp.learning.losses import (
    Huber as Huber,
    Loss as Loss,
    MeanAbsoluteError as MeanAbsoluteError,
    MeanSquaredError as MeanSquaredError,
    SigmoidCrossEntropy as SigmoidCrossEntropy,
    SoftmaxCrossEntropy as SoftmaxCrossEntropy,
)
from dense_xp.learning.metric import Metric as Metric
from dense_xp.learning.metrics import AUC as AUC, R2 as R2, Accuracy as Accuracy, TopK as TopK, accuracy as accuracy
from dense_xp.learning.optimizer import Optimizer as Optimizer
from dense_xp.learning.optimizers import (
    SGD as SGD,
    Adagrad as Adagrad,
    Adam as Adam,
    AdamW as AdamW,
    Lion as Lion,
    RMSprop as RMSprop,
)
from dense_xp.learning.regularizers import (
    L1 as L1,
    L1L2 as L1L2,
    L2 as L2,
    Regularizer as Regularizer,
    SoftOrthogonality as SoftOrthogonality,
)
from dense_xp.learning.schedules import (
    ConstantSchedule as ConstantSchedule,
    CosineSchedule as CosineSchedule,
    ExponentialSchedule as ExponentialSchedule,
    ScaledSchedule as ScaledSchedule,
    Schedule as Schedule,
    StepSchedule as StepSchedule,
    WarmUp as WarmUp,
)
from dense_xp.saving import (
    Checkpoint as Checkpoint,
    ModelFileError as ModelFileError,
    describe as describe,
    load as load,
    save as save,
)
from dense_xp.tables.parquet import ParquetRows as ParquetRows
from dense_xp.training.averaging import MovingAverage as MovingAverage
from dense_xp.training.callbacks import (
    CSVLog as CSVLog,
    EarlyStopping as EarlyStopping,
    ReduceLROnPlateau as ReduceLROnPlateau,
    TensorBoard as TensorBoard,
)
from dense_xp.training.distributed.ranks import RankError as RankError, Ranks as Ranks
from dense_xp.training.history import (
    Callback as Callback,
    DivergenceError as DivergenceError,
    History as History,
    Run as Run,
)
from dense_xp.training.sequential import Sequential as Sequential

__version__: str
