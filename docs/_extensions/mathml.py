"""Formulas as MathML, which browsers draw themselves: no script, no fonts and no network to wait for."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from docutils.utils.math.unichar2tex import uni2tex_table
from sphinx.util.logging import getLogger

CHARACTERS = uni2tex_table | {ord("·"): r"\cdot "}
FUNCTION = r"\\(?:log|sinh|cosh|tanh|operatorname\{\w+\})"


def _mathml(node: nodes.Element, *, block: bool) -> str:
    # the pages write α, ∂ and ≤ as themselves, as a reader of the source wants them; TeX has names for them
    tex = node.astext().translate(CHARACTERS)
    # two things that docutils does otherwise than TeX: an argument is one digit, and functions stand apart
    tex = re.sub(r"(frac) *(\d) *(\d)", r"\1{\2}{\3}", tex)
    tex = re.sub(r"([\w})]) *(?=" + FUNCTION + ")", r"\1\,", tex)
    tex = re.sub("(" + FUNCTION + r") *(?=\w|\\(?!left))", r"\1\,", tex)
    try:
        mathml = str(tex2mathml(tex, as_block=block))
    except MathError as error:
        getLogger(__name__).warning("formula %r: %s", node.astext(), error, location=node)
        return ""
    return re.sub(r"<mo[^>]*>([|‖⟨⟩])</mo>", r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', mathml)


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node, block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="formula">{_mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Add the renderer, to be chosen with ``html_math_renderer = "mathml"``."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
