"""The report of a training as one page of HTML, which needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dense_xp.cli.pictures import importance, prediction_quality
from dense_xp.cli.scores import Host, errors, importances, scores
from dense_xp.support.texts import brief
from dense_xp.tables import Classes, Encoder, counted
from dense_xp.training.history import History
from dense_xp.training.pictures import learning_curve

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem }
div { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100%; height: auto }
"""
_WORST = 10
_MOST_COLUMNS = 10


def page(
    title: str,
    said: Sequence[tuple[str, str]],
    encoder: Encoder,
    history: History,
    rows: Any,
    measured: str,
    data: tuple[Host, Host],
    predict: Any,
) -> str:
    """Return the page.

    Parameters
    ----------
    title : str
        Its heading.
    said : sequence of (str, str)
        The printed lines, each with its label in front.
    encoder : Encoder
        That of the model.
    history : History
        Of one epoch at least.
    rows : polars.DataFrame
        The rows to measure on.
    measured : str
        Which rows these are, in words.
    data : tuple of numpy.ndarray
        The same, encoded: X and y.
    predict : callable
        Returns the outputs of the model for X.
    """
    X, y = data
    output = predict(X)
    found = scores(encoder, output, y)
    unit = "cross-entropy" if isinstance(encoder.target, Classes) else "root mean square error"
    growth = importances(encoder, predict, X, y)
    ordered = sorted(growth.items(), key=lambda pair: -pair[1])
    sections = [
        ("What was done", _table(("", ""), [(name, text) for name, text in said if name != "columns"])),
        ("The columns", _table(("column", "kind", "what was done"), _first(encoder.report()))),
        ("The learning curve", _picture(learning_curve(history), "Each measure against the epoch")),
        (
            f"Predictions beside the truth: {measured}",
            _numbers(found)
            + _picture(prediction_quality(encoder, output, y), "Predictions beside the truth")
            + (_classes(found["classes"]) if "classes" in found else ""),
        ),
        (
            "What each column is worth",
            f"<p>By how much the {unit} of these rows grows when the values of a column change places among them, "
            "three times. Columns that say the same share their worth.</p>"
            + _picture(importance(growth, unit), f"By how much the {unit} grows")
            + _table(("column", f"{unit} grows by"), _first([(name, f"{value:.4g}") for name, value in ordered])),
        ),
        ("The largest errors", _worst(encoder, output, y, rows)),
    ]
    body = "".join(f"<h2>{_text(head)}</h2>\n{content}\n" for head, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{_text(title)}</h1>\n{body}</body>\n</html>\n"
    )


def _text(text: str) -> str:
    return escape(brief(text))


def _picture(figure: Any, about: str) -> str:
    """Return a figure as an embedded image, in which SVG names cannot clash with those of other figures."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    data = base64.b64encode(file.getvalue()).decode()
    return f'<p><img alt="{_text(about)}" src="data:image/svg+xml;base64,{data}"></p>'


def _first(rows: Sequence[Sequence[str]], most: int = 100) -> list[Sequence[str]]:
    return [*rows[:most], *([("…", f"{len(rows) - most:,} more")] if len(rows) > most else [])]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of texts as a table; numbers are right-aligned."""

    def cell(text: str) -> str:
        return f'<td class="number">{_text(text)}</td>' if _is_number(text) else f"<td>{_text(text)}</td>"

    lines = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    names = "".join(f"<th>{_text(name)}</th>" for name in head)
    return f"<div><table>\n<tr>{names}</tr>\n{lines}</table></div>"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace("–", "0"))
    except ValueError:
        return False
    return True


def _numbers(found: Mapping[str, Any]) -> str:
    return _table(
        ("measure", ""), [(name, f"{value:.4g}") for name, value in found.items() if isinstance(value, float)]
    )


def _classes(classes: Mapping[str, Mapping[str, Any]]) -> str:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.3f}"

    rows = [
        (label, f"{row['rows']:,}", f"{row['predicted']:,}", share(row["precision"]), share(row["recall"]))
        for label, row in classes.items()
    ]
    return _table(("class", "rows", "predicted", "precision", "recall"), _first(rows))


def _worst(encoder: Encoder, output: Host, y: Host, rows: Any) -> str:
    size = np.abs(errors(encoder, output, y))
    at = np.argsort(-size, kind="stable")[:_WORST]
    name = encoder.target.name
    predicted = encoder.decode(output[at])[name]
    columns = [column.name for column in encoder.columns][:_MOST_COLUMNS]
    unit = "cross-entropy" if isinstance(encoder.target, Classes) else "error"
    head = (name, "predicted", unit, *columns)
    lines = [
        [
            *map(_shown, (rows[name][int(i)], predicted[k])),
            f"{size[i]:.4g}",
            *(_shown(rows[c][int(i)]) for c in columns),
        ]
        for k, i in enumerate(at)
    ]
    more = len(encoder.columns) - len(columns)
    return _table(head, lines) + (f"<p>and {counted(more, 'more column')}</p>" if more else "")


def _shown(value: object) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
