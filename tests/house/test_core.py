"""The core can be read in an hour: what one batch passes through is short, whatever stands round it."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYOUT = {getattr(tokenize, name) for name in ("COMMENT", "NL", "NEWLINE", "INDENT", "DEDENT", "ENDMARKER")}


def lines_of_code(source: str) -> int:
    """Count the lines that are no comment, no docstring and not blank."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def core() -> list[Path]:
    """Return the files that the architecture page lists for reading."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = page.partition("## The core in an hour")[2].partition("\n## ")[0]
    return [ROOT / "dense_xp" / name for name in re.findall(r"`(\w+/\w+\.py)`", section)]


def test_what_one_batch_passes_through_is_short() -> None:
    files = core()
    assert len(files) == len(set(files)) > 10
    counted = {str(path.relative_to(ROOT)): lines_of_code(path.read_text(encoding="utf-8")) for path in files}
    assert sum(counted.values()) <= 1300, counted


@pytest.mark.parametrize(
    ("source", "n"),
    [
        ("", 0),
        ('"""Says."""\n\n# why\nx = 1  # one\n', 1),
        ('def f():\n    """Say.\n\n    More.\n    """\n    return (\n        1\n    )\n', 4),
        ('X = 1\n"""What it is."""\n', 1),
    ],
)
def test_the_count(source: str, n: int) -> None:
    assert lines_of_code(source) == n


@pytest.mark.parametrize("path", sorted((ROOT / "dense_xp").rglob("*.py")), ids=lambda path: path.stem)
def test_a_file_fits_its_room(path: Path) -> None:
    whole = path.read_text(encoding="utf-8")
    kernels = path.parent.name == "kernels" or path.stem == "metrics"
    assert len(whole.splitlines()) <= (620 if kernels else 500)
    for node in ast.walk(ast.parse(whole)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 320, node.name
