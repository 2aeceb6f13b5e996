"""The commands that use a model: ``predict``, ``evaluate``, ``export`` and ``summary``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dense_xp import tables
from dense_xp.cli.arguments import DATA, Parser, add_command, file_options, names
from dense_xp.cli.pictures import prediction_quality
from dense_xp.cli.reports import (
    Lines,
    check_place,
    epochs,
    first_of,
    note,
    show,
    with_target,
)
from dense_xp.cli.scores import in_words, scores
from dense_xp.layers.dense import Dense
from dense_xp.layers.layer import Layer
from dense_xp.saving import ModelFileError, describe, load
from dense_xp.support.pictures import check_picture
from dense_xp.support.texts import plain
from dense_xp.tables import Classes, Encoder, Quantity, counted, files as table_files, free_name, some_of
from dense_xp.tables.errors import TableError
from dense_xp.tables.files import Table
from dense_xp.training.history import History
from dense_xp.training.sequential import Sequential

_MOST_CLASSES = 10  # for which the confusion matrix is printed
_CHUNK = 2**16  # rows that are encoded at a time


def add(commands: Any, backend: Parser) -> None:
    """Add the commands to a parser; `backend` is the parent with ``--backend``."""
    given = Parser(add_help=False)
    given.add_argument("model", metavar="MODEL", help="file that train or dense_xp.save wrote")
    table = Parser(add_help=False)
    table.add_argument("data", metavar="DATA", help=DATA)
    file_options(table)

    use = add_command(
        commands,
        "predict",
        predict,
        given,
        table,
        backend,
        help="predict for each row of a table",
        description="Predict for each row of a table: the class and the probability of each class, or a number.",
        example="predict iris.safetensors new.csv --output predicted.csv",
    )
    use.add_argument("--output", metavar="FILE", help="CSV, Parquet or NPZ (default: CSV on standard output)")
    use.add_argument("--keep", metavar="COLUMNS", type=names, action="extend", default=[],
                     help="columns of DATA that are repeated in front, with commas between them")  # fmt: skip

    about, shown = "measure a model on a table that has the target", "evaluate iris.safetensors test.csv"
    measure = add_command(commands, "evaluate", evaluate, given, table, backend, help=about, example=shown)
    measure.add_argument("--json", action="store_true", help="print a report for machines")
    measure.add_argument("--plot", metavar="FILE", help="draw calibration and confusion, or the errors of numbers")

    out = add_command(
        commands,
        "export",
        export,
        given,
        backend,
        help="write a model as ONNX",
        description="Write a model as ONNX. Its inputs are the columns of the table, each under its name and of shape "
        "(rows, 1): numbers as double, texts as string, dates as days since 1970. A missing value is NaN, or empty.",
        example="export iris.safetensors iris.onnx",
    )
    out.add_argument("output", metavar="FILE.onnx", help="where to")
    out.add_argument("--encoded", action="store_true", help="one input with the encoded features, and not the columns")

    about = "show what is in a model file"
    add_command(commands, "summary", summary, given, backend, help=about, example="summary iris.safetensors")


def predict(arguments: argparse.Namespace) -> int:
    """Write what a model predicts for each row."""
    if arguments.output:
        table_files.check_format(arguments.output, output=True)
        check_place(arguments.output, arguments.data, arguments.model)
    model, encoder, table = _model_and_table(arguments)
    kept = list(dict.fromkeys(arguments.keep))
    tables.check_columns(table.frame, kept)
    predicted = encoder.decode(_output(model, encoder, table.frame, may_be_absent=True))
    renamed = {name: free_name(name, [*kept, *predicted.columns]) for name in predicted.columns if name in kept}
    for name, other in renamed.items():
        note(f"{name} is kept, and what is predicted is {other}")
    predicted = predicted.rename(renamed)
    predicted = predicted.select(*table.repeated(kept), *predicted)
    if arguments.output:
        table_files.write(predicted, arguments.output)
        show(f"{counted(predicted.height, 'row')}: {arguments.output}")
    else:
        text = predicted.write_csv()
        print(plain(text) if sys.stdout.isatty() else text, end="")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Print how well a model predicts a table."""
    if arguments.plot:
        check_picture(arguments.plot)
        check_place(arguments.plot, arguments.data, arguments.model)
    model, encoder, table = _model_and_table(arguments)
    frame = table.frame
    tables.check_columns(frame, [encoder.target.name], ", which the model predicts")
    encoder.target.encode(frame[encoder.target.name])  # first: the error for an unknown class has its row in the file
    frame = with_target(frame, encoder.target.name, note)
    y = encoder.encode_target(frame)
    output = _output(model, encoder, frame, may_be_absent=False)
    found = scores(encoder, output, y)
    if arguments.plot:
        prediction_quality(encoder, output, y).savefig(arguments.plot, dpi=150)
    if arguments.json:
        show(json.dumps({"rows": frame.height, "target": encoder.target.name, **found}, indent=1))
        return 0
    say = Lines()
    say("data", f"{arguments.data}: {counted(frame.height, 'row')}")
    say("target", encoder.target.name)
    say("scores", in_words(encoder, found))
    if isinstance(encoder.target, Classes):
        width = max(5, *map(len, encoder.target.labels))
        show(f"\n{'class':{width}}  {'rows':>9}  predicted  precision  recall")
        for label, row in found["classes"].items():
            precision, recall = ("–" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall"))
            show(f"{label:{width}}  {row['rows']:9,}  {row['predicted']:9,}  {precision:>9}  {recall:>6}")
        if len(encoder.target.labels) <= _MOST_CLASSES:
            widths = [max(9, len(label)) for label in encoder.target.labels]
            heads = (f"{label:>{w}}" for label, w in zip(encoder.target.labels, widths, strict=True))
            show(f"\n{'true':{width}}  {'  '.join(heads)}  predicted")
            for label, counts in zip(encoder.target.labels, found["confusion"], strict=True):
                show(f"{label:{width}}  " + "  ".join(f"{n:{w},}" for n, w in zip(counts, widths, strict=True)))
    if arguments.plot:
        say("picture", arguments.plot)
    return 0


class Loaded(NamedTuple):
    """A model from a file that ``train`` wrote, and what was saved with it."""

    model: Any
    encoder: Encoder
    about: Mapping[str, Any]
    history: History | None


def load_with_table(path: str) -> Loaded:
    """Load a model with the encoder of its table; raise ModelFileError if it has none."""
    model, encoder, about = _load(path)
    if encoder is None:
        raise ModelFileError(
            f"{path} holds a model without the columns that it was trained on: only dense-xp train saves "
            "them; dense_xp.load(...).predict takes arrays"
        )
    return Loaded(model, encoder, about, describe(path).get("history"))


def _model_and_table(arguments: argparse.Namespace) -> tuple[Layer, Encoder, Table]:
    model, encoder, about, _ = load_with_table(arguments.model)
    table = table_files.read_table(
        arguments.data,
        texts=encoder.texts,
        missing=about["missing"],
        values=about.get("values", []),
        decimals=about.get("decimals", {}),
        keep=getattr(arguments, "keep", ()),
        encoding=arguments.encoding,
        unlimited=arguments.unlimited,
    )
    tables.check_columns(table.frame, [column.name for column in encoder.columns], ", which the model needs")
    used = {encoder.target.name, *(column.name for column in encoder.columns)}
    readings = [text for name, text in table.readings.items() if name in used]
    for text in (*table.notes, *first_of(readings, "column")):
        note(text)
    return model, encoder, table


def _load(path: str) -> tuple[Any, Encoder | None, dict[str, Any]]:
    """Return a model, the encoder of its table if it has one, and what else was saved with it."""
    model, about = load(path), describe(path).get("extra", {})
    if "table" not in about:
        return model, None, about
    try:
        encoder = Encoder.from_config(about["table"])
        for marks in (about.get("missing"), about.get("values", [])):
            if not isinstance(marks, list) or not all(isinstance(mark, str) for mark in marks):
                raise ValueError(f"its marks of missing values are {marks!r}")
        signs = about.get("decimals", {})
        if not isinstance(signs, dict) or not all(sign in (".", ",") for sign in signs.values()):
            raise ValueError(f"its decimal signs are {signs!r:.60}")
        if not isinstance(about.get("training", {}), dict):
            raise ValueError(f"what it says of its training is {about['training']!r}")
        shapes = (len(encoder.features),), (encoder.target.n_outputs,)
        if (model.input_shape, model.output_shape()) != shapes:
            raise ValueError(f"its table is for a model with {shapes[0][0]} features and {shapes[1][0]} outputs")
    except ValueError as error:
        raise ModelFileError(f"{path} does not fit together: {error}") from error
    return model, encoder, about


def _output(model: Any, encoder: Encoder, frame: Any, *, may_be_absent: bool) -> np.ndarray[Any, Any]:
    """Report missing and new values, and return the output of the model for each row."""
    for text in first_of(encoder.notes(frame), "column"):
        note(text)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [model.predict(encoder.encode(chunk)) for chunk in frame.iter_slices(_CHUNK)]
    output = np.concatenate(parts, axis=0)
    absent = ~np.isfinite(output).all(axis=1)
    if absent.any():
        rows = f"{counted(int(absent.sum()), 'row')}, first for row {int(absent.argmax()) + 1}"
        text = f"there is no prediction for {rows}: the numbers are too far from those of the training"
        if not may_be_absent:
            raise TableError(text)
        note(text)
    return output


def export(arguments: argparse.Namespace) -> int:
    """Write a model as ONNX, with its table in the graph, or with ``--encoded`` in the metadata alone."""
    from dense_xp.interop import export_onnx

    if not arguments.output.endswith(".onnx"):
        raise ValueError(f"{arguments.output}: the ending must be .onnx")
    check_place(arguments.output, arguments.model)
    model, encoder, about = _load(arguments.model)
    say = Lines()
    how: dict[str, Any] = {}
    if encoder is not None:
        config, features = json.dumps(encoder.get_config()), json.dumps(encoder.features)
        how["metadata"] = {"dense_xp.table": config, "dense_xp.features": features}
        target = encoder.target
        if arguments.encoded:
            count = counted(len(encoder.features), "encoded feature")
            say("input", f"{count}, and not the columns of a table: how they are made is in the metadata,")
            say("input", "as JSON under dense_xp.table, and their names are under dense_xp.features")
            if isinstance(target, Classes):
                how["activation"] = "softmax"
            else:
                _undo_scale(model, target)
        else:
            how |= {"table": encoder, "missing": about["missing"]}
            say.inputs(encoder)
            if isinstance(target, Classes):
                say("outputs", f"{target.name or '(no name)'}, as text")
        classes = isinstance(target, Classes) and f"the probabilities of {some_of(target.labels)}"
        say("outputs", classes or f"{target.name}, in its own unit")
    export_onnx(model, arguments.output, **how)
    say("written", arguments.output)
    return 0


def _undo_scale(model: Sequential, target: Quantity) -> None:
    """Change the last layer so that the model predicts in the unit of the target."""
    last = model.layers[-1]
    if not isinstance(last, Dense) or last.activation is not None or "w0" not in last.params:
        raise ModelFileError(f"the last layer is {last!r}, and must be a Dense with a bias and without an activation")
    last.W = last.W * target.scale
    last.w0 = last.w0 * target.scale + target.mean


def summary(arguments: argparse.Namespace) -> int:
    """Print what is in a model file."""
    model, encoder, about = _load(arguments.model)
    if isinstance(model, Sequential):
        model.summary()
    else:
        show(f"{model!r}: {model.parameters():,} parameters, {model.dtype} on {model.backend}")
    say = Lines()
    if encoder is not None:
        target = encoder.target
        show()
        say("target", f"{target.name}: {some_of(target.labels) if isinstance(target, Classes) else 'a number'}")
        say.columns(encoder)
        for name, value in about.get("training", {}).items():
            say("training", f"{name}: {value}")
    history = describe(arguments.model).get("history")
    if history is not None:
        say("epochs", epochs(history))
        best = history.best_epoch or history.epochs
        columns = {name: column for name, column in history.items() if len(column) == history.epochs > 0}
        say("measured", ", ".join(f"{name} {column[best - 1]:.4g}" for name, column in columns.items()))
    return 0
