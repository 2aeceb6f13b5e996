"""A model as a table: its layers, the shapes of their outputs, how many parameters they have."""

from __future__ import annotations

from collections.abc import Callable

from dense_xp.layers.chain import Chain
from dense_xp.layers.layer import Layer

_HEAD = ("layer", "output shape", "parameters")


def as_text(model: Chain) -> str:
    """Return the table in lines of text.

    Parameters
    ----------
    model : Chain
        Of layers; it need not have weights yet.
    """
    rows = [_HEAD, *_rows(model)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
    rule = "─" * len(lines[0])
    return "\n".join((lines[0], rule, *lines[1:], rule, _total(model)))


def as_html(model: Chain) -> str:
    """Return the table in HTML, as notebooks show it.

    Parameters
    ----------
    model : Chain
        Of layers; it need not have weights yet.
    """
    from html import escape  # for notebooks alone

    def row(cells: tuple[str, str, str], tag: str) -> str:
        left, right = "text-align:left", "text-align:right"
        styled = zip(cells, (left, left, right), strict=True)
        return "<tr>" + "".join(f'<{tag} style="{style}">{escape(text)}</{tag}>' for text, style in styled) + "</tr>"

    body = "".join(row(cells, "td") for cells in _rows(model))
    caption = f'<caption style="caption-side:bottom;text-align:left">{escape(_total(model))}</caption>'
    return f"<table>{caption}<thead>{row(_HEAD, 'th')}</thead><tbody>{body}</tbody></table>"


def _rows(model: Chain) -> list[tuple[str, str, str]]:
    return [(_described(key, layer), _shape(layer), _count(layer)) for key, layer in model.children.items()]


def _total(model: Chain) -> str:
    place = f"{model.dtype} on {model.backend}" if model.backend else "not initialized"
    return f"{_count(model)} parameters, {place}"


def _described(key: str, layer: Layer) -> str:
    activation = getattr(layer, "activation", None)
    text = f"{key} ({type(layer).__name__}"
    text += f", {activation.layer_name()})" if isinstance(activation, Layer) else ")"
    return text if layer.trainable else f"{text} frozen"


def _shape(layer: Layer) -> str:
    return _if_known(lambda: f"(…, {', '.join(map(str, layer.output_shape()))})")


def _count(layer: Layer) -> str:
    return _if_known(lambda: f"{layer.parameters():,}")


def _if_known(text: Callable[[], str]) -> str:
    try:
        return text()
    except RuntimeError:
        return "?"
