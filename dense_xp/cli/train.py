"""``train``: from a table to a model in a file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dense_xp import tables
from dense_xp.backend import get_backend
from dense_xp.cli.arguments import (
    DATA,
    Parser,
    as_given,
    example,
    names,
    not_negative,
    positive,
    rate,
    share,
    unlimited_option,
    widths,
)
from dense_xp.cli.reports import (
    Lines,
    check_place,
    epochs,
    first_of,
    in_words,
    note,
    scores,
    shortened,
    with_target,
)
from dense_xp.kernels import kernels_for, optional
from dense_xp.layers.activations import get_activation
from dense_xp.layers.dense import Dense
from dense_xp.layers.dropout import Dropout
from dense_xp.layers.layer import Layer
from dense_xp.layers.normalization import BatchNorm, LayerNorm
from dense_xp.learning.optimizer import Optimizer
from dense_xp.learning.optimizers import OPTIMIZERS
from dense_xp.saving import save
from dense_xp.support.pictures import check_picture
from dense_xp.tables import Classes, Encoder, Quantity, Target, counted
from dense_xp.tables import files as table_files
from dense_xp.tables.errors import TableError
from dense_xp.training.callbacks import CSVLog, EarlyStopping
from dense_xp.training.history import DivergenceError, History, Run
from dense_xp.training.pictures import learning_curve
from dense_xp.training.sequential import Sequential

Pair: TypeAlias = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

_NORMALIZATIONS: dict[str, type[BatchNorm] | type[LayerNorm] | None] = {
    "none": None,
    "batch": BatchNorm,
    "layer": LayerNorm,
}
_RECTIFIERS = ("relu", "leaky_relu", "elu", "gelu", "silu", "softplus")


def add(commands: Any, backend: Parser) -> None:
    """Add the command to a parser; `backend` is the parent with ``--backend``."""
    command = commands.add_parser(
        "train",
        parents=[backend],
        help="learn to predict a column of a table from the others",
        description="Learn to predict a column of a table from the others, and save the model with all that is needed "
        "to use it. What was done with each column is reported. Ctrl-C saves what was learned so far.",
        epilog=example("train iris.csv --target species --save iris.safetensors"),
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
    unlimited_option(table)
    table.add_argument("--validation", metavar="SHARE", type=share, default=0.2,
                       help="share of the rows that is held out (default: 0.2)")  # fmt: skip
    table.add_argument("--seed", type=not_negative, default=0, help="seed of all that is random (default: 0)")

    network = command.add_argument_group("the network")
    network.add_argument("--hidden", metavar="WIDTHS", type=widths, default=[128, 64],
                         help="units of the hidden layers, or none (default: 128,64)")  # fmt: skip
    network.add_argument("--activation", metavar="NAME", default="relu", help="default: relu")
    network.add_argument("--dropout", metavar="SHARE", type=share, default=0.0, help="default: 0")
    network.add_argument("--normalization", choices=tuple(_NORMALIZATIONS), default="none", help="default: none")

    training = command.add_argument_group("the training")
    training.add_argument("--epochs", type=positive, default=100, help="at most so many (default: 100)")
    training.add_argument("--batch-size", metavar="ROWS", type=positive,
                          help="default: a hundredth of the rows, from 32 to 1024")  # fmt: skip
    training.add_argument("--optimizer", metavar="NAME", default="adam", help="default: adam")
    training.add_argument("--learning-rate", metavar="RATE", type=rate, help="default: that of the optimizer")
    training.add_argument("--weight-decay", metavar="RATE", type=rate, help="default: that of the optimizer")
    training.add_argument("--patience", metavar="EPOCHS", type=not_negative, default=10,
                          help="stop after more epochs than these without a better loss on the held-out rows; "
                          "the best weights are kept (default: 10)")  # fmt: skip
    training.add_argument("--plot", metavar="FILE", help="draw the learning curve (needs matplotlib)")
    training.add_argument("--log", metavar="FILE.csv", help="write a line for each epoch")
    training.add_argument("--quiet", action="store_true", help="print nothing but errors")
    command.set_defaults(run=train)


def train(arguments: argparse.Namespace) -> int:
    """Learn from a table, and save the model: also after Ctrl-C, and with the last good weights after a divergence."""
    say = Lines(quiet=arguments.quiet)
    outputs = (arguments.save, arguments.log, arguments.plot)
    for i, path in enumerate(outputs):
        check_place(path, arguments.data, *outputs[:i])
    if arguments.plot:
        check_picture(arguments.plot)
    optimizer = _optimizer(arguments)
    get_activation(arguments.activation)
    if get_backend().reason:
        say("backend", f"auto: {get_backend().reason}")

    data = _data(arguments, say)
    model = _network(arguments, data.encoder)
    model.initialize(optimizer)
    batch_size = arguments.batch_size or min(1024, max(32, len(data.learn[1]) // 100))
    say("network", _described(arguments, data.encoder, model))
    say("training", f"{arguments.optimizer}, batches of {batch_size:,}, at most {counted(arguments.epochs, 'epoch')}")

    family = model.built().kernels
    compiles_first = optional(kernels_for(family), "compiles_first") if family else None
    if compiles_first is not None and compiles_first() and not arguments.quiet:
        note("compiling the loops first, once after an installation: some seconds")

    history, failure = _fit(arguments, model, data, batch_size)
    say("epochs", epochs(history, arguments.epochs))
    if data.held_out is not None:
        found = scores(data.encoder, model.predict(data.held_out[0]), data.held_out[1])
        say("held out", f"{in_words(data.encoder, found)}; these rows chose the epoch")
    save(model, arguments.save, history=history, extra=data.extra)
    say("saved", arguments.save)
    if arguments.plot and history.epochs:
        learning_curve(history).savefig(arguments.plot, dpi=150)
    for name, path in (("log", arguments.log), ("curve", arguments.plot if history.epochs else None)):
        if path:
            say(name, path)
    if isinstance(failure, DivergenceError):
        raise ArithmeticError(f"{failure}. {arguments.save} has the last good ones") from failure
    return 0 if failure is None else 130


@dataclass(frozen=True)
class _Data:
    encoder: Encoder
    learn: Pair
    held_out: Pair | None
    extra: dict[str, Any]
    """What is saved beside the model."""


def _data(arguments: argparse.Namespace, say: Lines) -> _Data:
    """Read the table, divide its rows, and learn from those of the training how all are encoded."""
    table = table_files.read_table(
        arguments.data,
        texts=arguments.category,
        missing=arguments.missing,
        values=arguments.value,
        decimals=arguments.decimal,
        unlimited=arguments.unlimited,
    )
    frame = table.frame
    say("data", f"{arguments.data}: {counted(frame.height, 'row')}, {counted(frame.width, 'column')}")
    for line in (*table.notes, *first_of([*table.readings.values()], "column")):
        say("data", line)
    name = _target_name(arguments, frame)
    frame = with_target(frame, name, lambda line: say("data", line))
    column = frame[name]
    target = tables.make_target(column, arguments.task)
    codes = target.encode(column) if isinstance(target, Classes) else None
    rows, held_out = tables.split(frame.height, arguments.validation, arguments.seed, codes)
    task, why = tables.task_of(column)
    asked = f"as asked for; {why}" if arguments.task else f"{why}; --task decides otherwise"
    say("target", f"{column.name}: {arguments.task or task} ({asked})")
    say("target", _balance(target, column, codes))
    by_class = ", of each class its share" if codes is not None else ""
    say("rows", f"{len(rows):,} to learn from, {len(held_out):,} held out (seed {arguments.seed}{by_class})")
    encoder = Encoder.fit(
        frame[rows],
        target if codes is not None else Quantity.fit(column[rows]),
        drop=arguments.drop,
        categories=arguments.category,
        numbers=arguments.number,
    )
    say.columns(encoder)

    def encoded(part: Any) -> Pair:
        return encoder.encode(part), encoder.encode_target(part)

    if len(held_out) and not arguments.quiet:
        for note in first_of(encoder.notes(frame[held_out]), "column"):
            say("held out", note)
    extra = {
        "table": encoder.get_config(),
        "missing": arguments.missing,
        "values": arguments.value,
        "decimals": dict(table.decimals),
        "training": {"rows": len(rows), "held_out": len(held_out), "seed": arguments.seed},
    }
    return _Data(encoder, encoded(frame[rows]), encoded(frame[held_out]) if len(held_out) else None, extra)


def _fit(
    arguments: argparse.Namespace, model: Sequential, data: _Data, batch_size: int
) -> tuple[History, BaseException | None]:
    """Train; return what was measured, and what ended it before its time."""
    runs: list[Run] = []  # called with the run after each epoch, it knows what was measured before Ctrl-C
    callbacks: list[Any] = [runs.append]
    if data.held_out is not None:
        callbacks.append(EarlyStopping(patience=arguments.patience))
    if arguments.log:
        callbacks.append(CSVLog(arguments.log))
    failure: BaseException | None = None
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # a loss that is no number is an error of its own
            model.fit(
                *data.learn,
                arguments.epochs,
                batch_size,
                metrics=["accuracy" if isinstance(data.encoder.target, Classes) else "r2"],
                validation_data=data.held_out,
                callbacks=callbacks,
                verbose=False if arguments.quiet else None,
            )
    except (KeyboardInterrupt, DivergenceError) as error:
        if isinstance(error, KeyboardInterrupt) and not runs:
            raise KeyboardInterrupt("interrupted before the first epoch was over: nothing is saved") from None
        failure = error
    history = runs[0].history if runs else History()
    if isinstance(failure, DivergenceError):
        if not runs or (data.held_out is not None and history.best_epoch is None):
            raise failure  # no epoch gave weights that are worth a file
        history.stopped = "the loss was no longer finite"
    elif failure is not None:
        history.stopped = "interrupted"
    return history, failure


def _target_name(arguments: argparse.Namespace, frame: Any) -> str:
    name = arguments.target
    if name is None and table_files.check_format(arguments.data) == "npz":
        name = "y"
    if name is None:
        raise TableError(f"--target names the column that is predicted. There are: {shortened(frame.columns)}")
    tables.check_columns(frame, [name], ", the target")
    if name in arguments.drop:
        raise TableError(f"{name} is the target, and --drop leaves it out")
    return str(name)


def _optimizer(arguments: argparse.Namespace) -> Optimizer:
    given = {"learning_rate": arguments.learning_rate, "weight_decay": arguments.weight_decay}
    said = {name: value for name, value in given.items() if value is not None}
    return OPTIMIZERS.made({"name": arguments.optimizer, **said})


def _network(arguments: argparse.Namespace, encoder: Encoder) -> Sequential:
    layers: list[Layer] = []
    normalization = _NORMALIZATIONS[arguments.normalization]
    start = "he_uniform" if arguments.activation in _RECTIFIERS else "glorot_uniform"
    for units in arguments.hidden:
        if normalization is None:
            layers.append(Dense(units, activation=arguments.activation, kernel_initializer=start))
        else:
            layers += [Dense(units, kernel_initializer=start), normalization()]
            layers += [activation] if (activation := get_activation(arguments.activation)) is not None else []
        layers += [Dropout(arguments.dropout)] if arguments.dropout else []
    layers.append(Dense(encoder.target.n_outputs))
    return Sequential(layers, input_shape=(len(encoder.features),), rng=arguments.seed)


def _described(arguments: argparse.Namespace, encoder: Encoder, model: Sequential) -> str:
    hidden = [f"{units} {arguments.activation}" for units in arguments.hidden]
    end = f"{encoder.target.n_outputs} classes" if isinstance(encoder.target, Classes) else "1 number"
    shape = " → ".join([counted(len(encoder.features), "feature"), *hidden, end])
    return f"{shape}: {model.parameters():,} parameters, {model.dtype} on {model.backend}"


def _balance(target: Target, column: Any, codes: Any) -> str:
    if not isinstance(target, Classes):
        spread = f"mean {target.mean:.4g}, standard deviation {target.scale:.4g}"
        return f"from {column.min():.6g} to {column.max():.6g}, {spread}"
    counts = np.bincount(codes)
    order = np.argsort(-counts, kind="stable")
    return shortened([f"{target.labels[i]} {counts[i]:,} ({counts[i] / len(codes):.1%})" for i in order])
