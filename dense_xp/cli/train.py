"""``train``: from a table to a model in a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dense_xp import tables
from dense_xp.backend import get_backend, set_backend
from dense_xp.cli import reports
from dense_xp.cli.arguments import (
    DATA,
    Parser,
    add_command,
    as_given,
    file_options,
    names,
    not_negative,
    positive,
    rate,
    share,
    widths,
)
from dense_xp.cli.models import load_with_table
from dense_xp.cli.scores import in_words, scores
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.activations import get_activation
from dense_xp.layers.dense import Dense
from dense_xp.layers.perceptron import NORMALIZATIONS, hidden_layers
from dense_xp.layers.piecewise import PiecewiseLinear
from dense_xp.learning.losses import Loss, SoftmaxCrossEntropy
from dense_xp.learning.metrics import named_metrics
from dense_xp.learning.optimizers import OPTIMIZERS
from dense_xp.saving import save
from dense_xp.support.files import write_atomically
from dense_xp.support.pictures import check_picture, require_matplotlib
from dense_xp.tables import MAX_LEVELS, Classes, Encoder, Quantity, Target, counted, files as table_files, some_of
from dense_xp.tables.errors import TableError
from dense_xp.tables.leaks import leaks
from dense_xp.tables.parquet import EncodedRows, ParquetTable
from dense_xp.training.callbacks import CSVLog, EarlyStopping
from dense_xp.training.distributed.ranks import Ranks
from dense_xp.training.history import DivergenceError, History, Run
from dense_xp.training.pictures import learning_curve
from dense_xp.training.sequential import Sequential

Rows: TypeAlias = np.ndarray[Any, Any]

_OF_THE_MODEL = (
    "target", "task", "drop", "category", "number", "missing", "value", "decimal", "max_levels", "validation", "seed",
    "hidden", "activation", "dropout", "normalization", "bins", "optimizer", "learning_rate", "weight_decay",
    "class_weight", "metric",
)  # fmt: skip
"""Options that ``--resume`` takes from the model."""

_KEPT = ("optimizer", "seed", "validation", "class_weight", "metric")
"""Those of them that are saved in the model file under their own names."""

_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


def add(commands: Any, backend: Parser) -> None:
    """Add the command to a parser; `backend` is the parent with ``--backend``."""
    command = add_command(
        commands,
        "train",
        train,
        backend,
        help="learn to predict a column of a table from the others",
        description="Learn to predict a column of a table from the others, and save the model with all that is needed "
        "to use it. What was done with each column is reported. Ctrl-C saves what was learned so far.",
        example="train iris.csv --target species --save iris.safetensors",
    )
    command.add_argument("data", metavar="DATA", help=DATA)
    command.add_argument("--save", metavar="MODEL", required=True, help="where to write the model (safetensors)")

    table = command.add_argument_group("the table")
    table.add_argument("--target", metavar="COLUMN", type=as_given, help="what is predicted (default for NPZ: y)")
    table.add_argument("--task", choices=("classification", "regression"),
                       help="default: classification for texts and whole numbers with few values")  # fmt: skip
    for option, about in (
        ("--drop", "columns that are left out, with commas between them"),
        ("--category", "columns whose numbers are names, or whose many different texts are used all the same"),
        ("--number", "columns of numbers that are used though they look like identifiers"),
    ):
        table.add_argument(option, metavar="COLUMNS", type=names, action="extend", default=[], help=about)
    table.add_argument("--missing", metavar="TEXT", type=as_given, action="append", default=[],
                       help="what else stands for a missing value, such as -999; may be repeated")  # fmt: skip
    table.add_argument("--value", metavar="TEXT", type=as_given, action="append", default=[],
                       help="what is a value here, though in CSV files it often is a missing one: NA")  # fmt: skip
    table.add_argument("--decimal", metavar="SIGN", choices=(".", ","), default="",
                       help="the decimal sign of a CSV file, . or , (default: as its numbers have it)")  # fmt: skip
    file_options(table)
    table.add_argument("--max-levels", metavar="N", type=positive, default=MAX_LEVELS,
                       help=f"values of a category with a feature of their own (default: {MAX_LEVELS})")  # fmt: skip
    table.add_argument("--stream", action="store_true",
                       help="read a Parquet file piece by piece, as a folder of them always is: for tables that are "
                       "larger than memory")  # fmt: skip
    table.add_argument("--validation", metavar="SHARE", type=share, default=0.2,
                       help="share of the rows that is held out (default: 0.2)")  # fmt: skip
    table.add_argument("--seed", type=not_negative, default=0, help="seed of all that is random (default: 0)")

    network = command.add_argument_group("the network")
    network.add_argument("--hidden", metavar="WIDTHS", type=widths, default=[128, 64],
                         help="units of the hidden layers, or none (default: 128,64)")  # fmt: skip
    network.add_argument("--bins", metavar="BINS", type=positive,
                         help="encode numbers piecewise-linearly in at most so many bins, such as 48")  # fmt: skip
    network.add_argument("--activation", metavar="NAME", default="relu", help="default: relu")
    network.add_argument("--dropout", metavar="SHARE", type=share, default=0.0, help="default: 0")
    network.add_argument("--normalization", choices=("none", *NORMALIZATIONS), default="none", help="default: none")

    training = command.add_argument_group("the training")
    training.add_argument("--epochs", type=positive, default=100, help="at most so many (default: 100)")
    training.add_argument("--batch-size", metavar="ROWS", type=positive,
                          help="default: a hundredth of the rows, from 32 to 1024")  # fmt: skip
    training.add_argument("--optimizer", metavar="NAME", default="adam", help="default: adam")
    training.add_argument("--learning-rate", metavar="RATE", type=rate, help="default: that of the optimizer")
    training.add_argument("--weight-decay", metavar="RATE", type=rate, help="default: that of the optimizer")
    training.add_argument("--class-weight", metavar="WEIGHTS", type=names, default=[],
                          help="how much each class counts: balanced, or such as yes=3,no=1")  # fmt: skip
    training.add_argument("--patience", metavar="EPOCHS", type=not_negative, default=10,
                          help="stop after more epochs than these without a better loss on the held-out rows; "
                          "the best weights are kept (default: 10)")  # fmt: skip
    training.add_argument("--metric", metavar="NAME",
                          help="measure to stop by in place of the loss: accuracy, auc, f1, r2, ...")  # fmt: skip
    training.add_argument("--resume", metavar="MODEL",
                          help="learn on from a file that train wrote: table and network are its own")  # fmt: skip
    training.add_argument("--plot", metavar="FILE", help="draw the learning curve (needs matplotlib)")
    training.add_argument("--report", metavar="FILE.html",
                          help="write a page with data, learning curve, measures, the largest errors and what each "
                          "column is worth (needs matplotlib)")  # fmt: skip
    training.add_argument("--log", metavar="FILE.csv", help="write a line for each epoch")
    training.add_argument("--distributed", choices=("mpi",),
                          help="train on all processes that mpiexec has started")  # fmt: skip
    training.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.set_defaults(own={name: command.get_default(name) for name in _OF_THE_MODEL})


def train(arguments: argparse.Namespace) -> int:
    """Learn from a table, and save the model: also after Ctrl-C, and with the last good weights after a divergence."""
    if not arguments.distributed:
        return _train(arguments, None)
    ranks = Ranks()
    set_backend(ranks.backend(get_backend().spec))
    if not ranks.root:  # it trains with the others; only rank 0 prints and writes
        arguments.quiet, arguments.plot, arguments.report, arguments.log = True, None, None, None
    try:
        return _train(arguments, ranks)
    except Exception as error:
        if ranks.size > 1:  # the others would wait
            ranks.abort(error)
        raise


def _train(arguments: argparse.Namespace, ranks: Ranks | None) -> int:
    say = reports.Lines(quiet=arguments.quiet)
    outputs = (arguments.save, arguments.log, arguments.plot, arguments.report)
    for i, path in enumerate(outputs):
        reports.check_place(path, arguments.data, *outputs[:i])
    if arguments.plot:
        check_picture(arguments.plot)
    if arguments.report:
        require_matplotlib()
    rates = {"learning_rate": arguments.learning_rate, "weight_decay": arguments.weight_decay}
    given = {name: value for name, value in rates.items() if value is not None}
    optimizer = OPTIMIZERS.made({"name": arguments.optimizer, **given})
    get_activation(arguments.activation)
    if get_backend().reason:
        say("backend", f"auto: {get_backend().reason}")

    start = None
    if arguments.resume:
        start = load_with_table(arguments.resume)
        _take_over(arguments, start.about)
    measure = None if arguments.metric is None else next(iter(named_metrics([arguments.metric])))
    data = _read(arguments, None if start is None else start.encoder, say)
    encoder, batch_size = data.encoder, arguments.batch_size or min(1024, max(32, data.rows // 100))
    if start is None:
        model, history = _network(arguments, data), None
        model.initialize(optimizer)
    else:
        model, history = start.model, start.history
    weights = _class_weights(arguments.class_weight, data)
    _introduce(arguments, encoder, model, say)
    say("training", f"{arguments.optimizer}, batches of {batch_size:,}, at most {counted(arguments.epochs, 'epoch')}")
    own = "accuracy" if isinstance(encoder.target, Classes) else "r2"
    history, failure = _fit(
        model,
        data,
        arguments.epochs,
        batch_size,
        loss=None if weights is None else SoftmaxCrossEntropy(class_weight=weights),
        metrics=[own, *([] if measure in (None, own) else [arguments.metric])],
        stopping=EarlyStopping(f"val_{measure or 'loss'}", patience=arguments.patience),
        history=history,
        log=arguments.log,
        quiet=arguments.quiet,
        ranks=ranks,
    )
    if ranks is not None and not ranks.root:
        return 0 if failure is None else 130 if isinstance(failure, KeyboardInterrupt) else 2
    say("epochs", reports.epochs(history, None if arguments.resume else arguments.epochs))
    if data.validation is not None:
        known = encoder.encode_target(data.measured) if data.streams else data.validation[1]
        found = scores(encoder, model.predict(data.validation[0]), known)
        say("held out", f"{in_words(encoder, found)}; these rows chose the epoch")
    if history.best_epoch == history.epochs and not history.stopped:
        say("advice", "the last epoch was the best one: more may help, with --epochs")
    settings = {name: getattr(arguments, name) for name in _KEPT}
    counts = {"rows": data.rows, "held_out": data.held_out, **settings}
    marks = {"missing": arguments.missing, "values": arguments.value, "decimals": dict(data.decimals)}
    save(model, arguments.save, history=history, extra={"table": encoder.get_config(), **marks, "training": counts})
    say("saved", arguments.save)
    _draw(arguments, data, model, history, say)
    if isinstance(failure, DivergenceError):
        raise ArithmeticError(f"{failure}. {arguments.save} has the last good ones") from failure
    return 0 if failure is None else 130


def _take_over(arguments: argparse.Namespace, about: Mapping[str, Any]) -> None:
    """Take options from the model to resume; raise if one is given that the model has already."""
    for name, default in arguments.own.items():
        if getattr(arguments, name) != default:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is what {arguments.resume} has already: leave {option} or --resume out")
    settings = about.get("training", {})
    for name in _KEPT:
        setattr(arguments, name, settings.get(name, getattr(arguments, name)))
    arguments.missing, arguments.value = about["missing"], about.get("values", [])
    arguments.decimal = about.get("decimals", {})


class _Data(NamedTuple):
    encoder: Encoder
    learn: tuple[Any, Any]
    validation: tuple[Any, Any] | None
    measured: Any
    """The rows that are held out, or else the training rows, as a table."""
    rows: int
    held_out: int
    decimals: Mapping[str, str]
    streams: bool


def _read(arguments: argparse.Namespace, known: Encoder | None, say: reports.Lines) -> _Data:
    """Read a table, split its rows, and fit an encoder to the training rows if none is known."""
    streams = arguments.stream or os.path.isdir(arguments.data)
    if streams:
        if arguments.bins:
            raise TableError("--bins needs the table as a whole: leave --bins or --stream out")
        table = _streamed(arguments.data, arguments.missing, arguments.report)
    else:
        table = table_files.read_table(
            arguments.data,
            texts=arguments.category if known is None else known.texts,
            missing=arguments.missing,
            values=arguments.value,
            decimals=arguments.decimal,
            encoding=arguments.encoding,
            unlimited=arguments.unlimited,
        )
    frame: Any = table.frame
    say("data", f"{arguments.data}: {counted(frame.height, 'row')}, {counted(frame.width, 'column')}")
    for line in (*table.notes, *reports.first_of([*table.readings.values()], "column")):
        say("data", line)
    if known is None:
        name = _target_name(arguments.target, arguments.data, arguments.drop, frame)
    else:
        name = known.target.name
        tables.check_columns(frame, [name], ", the target")
    frame = reports.with_target(frame, name, lambda line: say("data", line))
    target, rows, held_out = _divided(frame[name], known, arguments, say)
    of_training, of_validation = (frame.only(part) if streams else frame[part] for part in (rows, held_out))
    encoder = known or Encoder.fit(
        of_training,
        target,
        drop=arguments.drop,
        categories=arguments.category,
        numbers=arguments.number,
        max_levels=arguments.max_levels,
    )
    say.columns(encoder)
    if len(held_out) and not arguments.quiet:
        for line in reports.first_of(encoder.notes(of_validation), "column"):
            say("held out", line)

    def encoded(part: Any) -> tuple[Any, Any]:
        return (EncodedRows(part, encoder), None) if streams else (encoder.encode(part), encoder.encode_target(part))

    learn = encoded(of_training)
    if not streams:
        for line in reports.first_of(leaks(encoder, *learn), "column"):
            say("leak?", line)
    validation = encoded(of_validation) if len(held_out) else None
    measured = of_training if validation is None else of_validation
    return _Data(encoder, learn, validation, measured, len(rows), len(held_out), table.decimals, streams)


def _network(arguments: argparse.Namespace, data: _Data) -> Sequential:
    """Return the network to train."""
    activation = arguments.activation
    first = [PiecewiseLinear.from_data(data.learn[0], arguments.bins)] if arguments.bins else []
    hidden = hidden_layers(
        arguments.hidden,
        [activation] * len(arguments.hidden),
        kernel_initializer="he_uniform" if activation in _RECTIFIERS else "glorot_uniform",
        normalization=None if arguments.normalization == "none" else arguments.normalization,
        dropout=arguments.dropout,
    )
    layers = [*first, *hidden, Dense(data.encoder.target.n_outputs)]
    return Sequential(layers, input_shape=(len(data.encoder.features),), rng=arguments.seed)


def _introduce(arguments: argparse.Namespace, encoder: Encoder, model: Sequential, say: reports.Lines) -> None:
    """Say what is trained, and whether kernels are compiled first."""
    target = encoder.target
    names = {PiecewiseLinear: "bins", Dense: arguments.activation if not arguments.resume else "units"}
    inside = [f"{layer.output_shape()[0]} {names[type(layer)]}" for layer in model.layers[:-1] if type(layer) in names]
    end = f"{target.n_outputs} classes" if isinstance(target, Classes) else "1 number"
    shape = [counted(len(encoder.features), "feature"), *inside, end]
    say("network", f"{' → '.join(shape)}: {model.parameters():,} parameters, {model.dtype} on {model.backend}")
    family = model.built().kernels
    compiles_first = optional(kernels_for(family), "compiles_first") if family else None
    if compiles_first is not None and compiles_first() and not arguments.quiet:
        reports.note("compiling the loops first, once after an installation: some seconds")


def _class_weights(given: Sequence[str], data: _Data) -> list[float] | None:
    """Return how much each class counts, from ``balanced`` or ``label=weight``."""
    target = data.encoder.target
    if not given:
        return None
    if not isinstance(target, Classes):
        raise ValueError(f"--class-weight is for classes, and {target.name} is a number")
    if [*given] == ["balanced"]:
        if data.streams:
            raise TableError("--class-weight balanced needs the table as a whole: give a weight for each class")
        counts = np.bincount(data.learn[1], minlength=target.n_outputs)
        return [float(weight) for weight in len(data.learn[1]) / (target.n_outputs * np.maximum(1, counts))]
    weights = dict.fromkeys(target.labels, 1.0)
    for text in given:
        label, _, weight = text.rpartition("=")
        if label not in weights:
            raise ValueError(f"--class-weight {text!r}: write label=weight, with one of {some_of(list(target.labels))}")
        try:
            weights[label] = rate(weight)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--class-weight {text!r}: {error}") from None
    return [*weights.values()]


def _draw(arguments: argparse.Namespace, data: _Data, model: Sequential, history: History, say: reports.Lines) -> None:
    """Write curve and report, and say where they are."""
    if arguments.log:
        say("log", arguments.log)
    if arguments.plot and history.epochs:
        learning_curve(history).savefig(arguments.plot, dpi=150)
        say("curve", arguments.plot)
    if arguments.report and history.epochs:
        from dense_xp.cli.page import page

        title = f"{data.encoder.target.name}, learned from {os.path.basename(arguments.data)}"
        which = "learned from" if data.validation is None else "held out"
        text = page(
            title,
            say.said,
            data.encoder,
            history,
            data.measured,
            f"{counted(data.measured.height, 'row')} that were {which}",
            data.validation or data.learn,
            model.predict,
        )
        write_atomically(arguments.report, text.encode())
        say("report", arguments.report)


def _streamed(path: str, missing: Sequence[str], report: str | None) -> table_files.Table:
    """Return a table whose columns are read one at a time, when they are asked for."""
    if report:
        raise TableError("--report needs the table as a whole: leave --report or --stream out")
    if not os.path.isdir(path) and table_files.check_format(path) != "parquet":
        raise TableError(
            f"{path}: --stream reads Parquet. polars makes a Parquet file of a CSV file of any size:  "
            "polars.scan_csv(...).sink_parquet(...)"
        )
    frame: Any = ParquetTable(path, missing)
    return table_files.Table(frame, frame)


def _target_name(name: str | None, path: str, drop: Sequence[str], frame: Any) -> str:
    if name is None and not os.path.isdir(path) and table_files.check_format(path) == "npz":
        name = "y"
    if name is None:
        raise TableError(f"--target names the column that is predicted. There are: {some_of(frame.columns)}")
    tables.check_columns(frame, [name], ", the target")
    if name in drop:
        raise TableError(f"{name} is the target, and --drop leaves it out")
    return name


def _divided(
    column: Any, known: Encoder | None, arguments: argparse.Namespace, say: reports.Lines
) -> tuple[Target, Rows, Rows]:
    """Return the target, the training rows and the held-out rows."""
    asked, seed = arguments.task, arguments.seed
    target = tables.make_target(column, asked) if known is None else known.target
    codes = target.encode(column) if isinstance(target, Classes) else None
    rows, held_out = tables.split(len(column), arguments.validation, seed, codes)
    if known is None:
        task, why = tables.task_of(column)
        reason = f"as asked for; {why}" if asked else f"{why}; --task decides otherwise"
        say("target", f"{column.name}: {asked or task} ({reason})")
        target = target if codes is not None else Quantity.fit(column[rows])
    say("target", _balance(target, column, codes))
    by_class = ", of each class its share" if codes is not None else ""
    say("rows", f"{len(rows):,} to learn from, {len(held_out):,} held out (seed {seed}{by_class})")
    return target, rows, held_out


def _fit(
    model: Sequential,
    data: _Data,
    n_epochs: int,
    batch_size: int,
    *,
    loss: Loss | None,
    metrics: Sequence[str],
    stopping: EarlyStopping,
    history: History | None,
    log: str | None,
    quiet: bool,
    ranks: Ranks | None,
) -> tuple[History, BaseException | None]:
    """Train; return the history, and the error or the Ctrl-C that ended the training early."""
    runs: list[Run] = []  # as a callback it collects the run, whose history survives Ctrl-C
    callbacks: list[Any] = [runs.append]
    if data.validation is not None:
        callbacks.append(stopping)
    if log:
        callbacks.append(CSVLog(log, append=history is not None))
    failure: BaseException | None = None
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a NaN loss has its own error
            model.fit(
                *data.learn,
                n_epochs,
                batch_size,
                loss=loss,
                metrics=metrics,
                validation_data=data.validation,
                callbacks=callbacks,
                history=history,
                verbose=False if quiet else None,
                distributed=ranks,
            )
    except (KeyboardInterrupt, DivergenceError) as error:
        if ranks is not None and not ranks.root:
            return History(), error
        if isinstance(error, KeyboardInterrupt) and not runs:
            raise KeyboardInterrupt("interrupted before the first epoch was over: nothing is saved") from None
        failure = error
    history = runs[0].history if runs else history or History()
    if isinstance(failure, DivergenceError):
        if not runs or (data.validation is not None and history.best_epoch is None):
            raise failure  # no epoch gave weights worth saving
        history.stopped = "the loss was no longer finite"
    elif failure is not None:
        history.stopped = "interrupted"
    return history, failure


def _balance(target: Target, column: Any, codes: Any) -> str:
    if not isinstance(target, Classes):
        spread = f"mean {target.mean:.4g}, standard deviation {target.scale:.4g}"
        return f"from {column.min():.6g} to {column.max():.6g}, {spread}"
    counts = np.bincount(codes)
    order = np.argsort(-counts, kind="stable")
    return some_of([f"{target.labels[i]} {counts[i]:,} ({counts[i] / len(codes):.1%})" for i in order])
