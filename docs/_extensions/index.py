"""The list of pages in the index is the table of contents: one place to add a page, here and on a code host."""

from __future__ import annotations

import re
from typing import Any


def _add_toctrees(app: Any, name: str, source: list[str]) -> None:
    """Write a hidden toctree for each heading of an index whose list links to pages."""
    if name.rpartition("/")[2] != "index":
        return
    trees = []
    for section in re.split(r"^## ", source[0], flags=re.M):
        pages = re.findall(r"^- \[[^]]*\]\(([\w/]+)\.md\)", section, re.M)
        if pages:
            heading = section.partition("\n")[0] if not section.startswith("#") else ""
            caption = [f":caption: {heading}"] if heading else []
            trees.append("\n".join(["", "```{toctree}", ":hidden:", *caption, "", *pages, "```", ""]))
    source[0] += "".join(trees)


def setup(app: Any) -> dict[str, bool]:
    """Read the index first as a list of pages."""
    app.connect("source-read", _add_toctrees)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
