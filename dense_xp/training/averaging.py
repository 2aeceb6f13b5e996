"""A moving average of the weights, which has less noise than those of the last step."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from dense_xp.backend import Array
from dense_xp.kernels import kernels_for, one_minus_power
from dense_xp.layers.layer import Layer
from dense_xp.layers.own_state import refuse_closed
from dense_xp.support.checks import real
from dense_xp.support.dtypes import in_dtype, wide, widened
from dense_xp.support.seeds import Rng
from dense_xp.support.trees import Params, copied, copies, flatten, mapped, merged, moved, unflatten
from dense_xp.training.accumulation import learning_params, zeros_of
from dense_xp.training.around import Around
from dense_xp.training.compiled import compile_once
from dense_xp.training.history import History, Run
from dense_xp.training.moments import Moment


class MovingAverage:
    r"""Average the weights over the steps of a training; validate, keep and leave the average.

    After update t the average is :math:`a_t = \sum_i d^{t-i} w_i / \sum_i d^{t-i}` over the weights :math:`w_1 \ldots
    w_t`: exponential, and corrected for its start as Adam's moments are. It is computed as
    :math:`a_t = a_{t-1} + s_t (w_t - a_{t-1})` with :math:`s_t = (1 - d) / (1 - d^t)`, in float32 at least.

    Training itself goes on from the weights as the optimizer has them. Between epochs, and so for the validation
    data, :class:`EarlyStopping`, :class:`Checkpoint` and after the training, the model has the average. A checkpoint
    holds both, and a training that goes on with its `history` and this callback comes to the same bits.

    Buffers are not averaged: the statistics of :class:`BatchNorm` are those of the last step, as in PyTorch's
    ``AveragedModel`` by default. Parameters of frozen layers stay what they are.

    Parameters
    ----------
    decay : float, default 0.999
        The share of the old average in the new one, once there were many steps: it looks back over about
        ``1 / (1 - decay)`` updates. At least 0, where the average is the last step, and below 1.

    Raises
    ------
    ValueError
        If `decay` is out of range; in ``fit``, if there are two of them, or if a layer keeps its arrays to itself.

    References
    ----------
    .. [1] B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control
       and Optimization 30, 1992, https://doi.org/10.1137/0330046
    .. [2] D. P. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, sec. 3 (the correction)
       and 7.2 (the average of the weights), https://arxiv.org/abs/1412.6980

    Examples
    --------
    >>> import numpy as np
    >>> from dense_xp import SGD, Dense, Sequential
    >>> X = np.ones((8, 1))
    >>> model = Sequential([Dense(1, use_bias=False)], rng=0)
    >>> _ = model.fit(X, X, 20, 1, optimizer=SGD(0.05), callbacks=[MovingAverage(0.9)])
    >>> bool(abs(model.weights["dense.W"][0, 0] - 1) < 0.01)
    True
    """

    on_every_rank = True
    """Each rank averages for itself: all have the same weights."""

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = real("decay", decay, "[0, 1)")

    def begin(self, run: Run) -> None:
        """Wrap the step of this training in one that averages."""
        refuse_closed(run.model, "MovingAverage")
        if isinstance(run.step, AveragedStep):
            raise ValueError(
                "there are two MovingAverage among the callbacks, and a model ends with one: leave one out"
            )
        with run.model.built().scope():
            run.step = AveragedStep(run, self.decay)

    def epoch_end(self, run: Run) -> None:
        """Do nothing: the model has the average."""

    def end(self, run: Run) -> None:
        """Do nothing: the model has the average."""


class AveragedStep(Around):
    """A step after which the weights are averaged; what it hands over is the average."""

    def __init__(self, run: Run, decay: float) -> None:
        assert run.step is not None
        assert run.make_step is not None
        model, kept = run.model, run.history.moving_average
        step, home = run.step, model.built()
        self.decay, self.history, self.updates = decay, run.history, 0
        self.raw: Params | None = None
        average = zeros_of(mapped(widened, learning_params(model)))
        if kept is not None:
            average = merged(average, moved(kept["average"], home, wide(model.dtype)))
            self.updates, self.raw = kept["steps"], merged(model.params, moved(kept["weights"], home, model.dtype))
            shown, model.params = model.params, self.raw
            step = run.make_step()  # the first one was made from the average
            model.params = shown
        super().__init__(step)
        self.average: dict[str, Array] = flatten(mapped(_own_memory, average))
        self.kernel: Any = None
        if home.kernels and model.dtype in ("float32", "float64"):
            self.kernel = kernels_for(home.kernels).sgd
        self.update = compile_once(model, home, "moving average", averaged, (0,))
        self._seen: Params | None = None

    def __call__(self, X: Array, y: Array, weight: Any, rng: Rng) -> tuple[Array, ...]:
        """Take one step on a batch, and average if it moved the parameters."""
        values = self.inner(X, y, weight, rng)
        if not self.inner.waiting:
            self._average()
        return values

    def _average(self) -> None:
        self.updates += 1
        share = (1.0 - self.decay) / one_minus_power(self.decay, self.updates)
        params = self.inner.params
        if self.kernel is None:
            flat = flatten(params)
            arrays = [flat[name] for name in self.average]
            home = self.model.built()
            # a compiled function needs an array; elsewhere it would only be one more copy
            rate = home.asarray(share, wide(self.model.dtype)) if home.compiles else share
            new = self.update(list(self.average.values()), arrays, rate)
            self.average = dict(zip(self.average, new, strict=True))
            return
        if params is not self._seen:  # a fused step keeps them in the same memory
            flat = flatten(params)
            self._pairs = [(own.reshape(-1), flat[name].reshape(-1)) for name, own in self.average.items()]
            self._seen = params
        for own, value in self._pairs:
            self.kernel(own, value, -share, 1.0 - share)

    def begin_epoch(self) -> None:
        """Make ready for the batches of an epoch, with the weights as the optimizer has them."""
        if self.raw is not None:
            self.model.params = self.raw
        self.inner.begin_epoch()

    def moment(self) -> Any:
        """Return what the model and the history have, to come back to."""
        return _Before(self.inner.moment(), self.history)

    def hand_over(self) -> None:
        """Give the model the average, and the history what is needed to go on."""
        due = self.inner.waiting
        self.inner.hand_over()
        if due:
            self._average()
        if not self.updates:
            return
        model = self.model
        self.raw = copies(model.params)
        kept = copies(unflatten(self.average))
        model.params = merged(self.raw, mapped(lambda own, raw: in_dtype(own, raw.dtype), kept, self.raw))
        self.history.moving_average = {"average": kept, "weights": self.raw, "steps": self.updates}


class _Before:
    """A moment of the model, and the average that the history had then."""

    def __init__(self, moment: Moment, history: History) -> None:
        self.moment, self.history, self.kept = moment, history, history.moving_average

    def restore(self, model: Layer, error: BaseException) -> None:
        self.moment.restore(model, error)
        self.history.moving_average = self.kept


def _own_memory(array: Array) -> Array:
    """Return a contiguous copy."""
    xp = array_namespace(array)
    return xp.reshape(copied(xp.reshape(array, (-1,))), tuple(array.shape))


def averaged(averages: list[Array], values: list[Array], share: Any) -> list[Array]:
    """Return averages moved towards values by a share of the way: a pure function.

    Examples
    --------
    >>> import numpy as np
    >>> averaged([np.asarray([1.0, 2.0])], [np.asarray([3.0, 2.0])], 0.25)
    [array([1.5, 2. ])]
    """
    return [own + share * (widened(value) - own) for own, value in zip(averages, values, strict=True)]
