"""Settings of the documentation: ``python -m sphinx -W --keep-going -b html docs build/docs``."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_extensions")]

import dense_xp  # noqa: E402

project = "dense_xp"
author = "The dense_xp developers"
version = release = dense_xp.__version__
html_title = f"dense_xp {version}"
html_show_copyright = html_show_sphinx = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "mathml", "index", "reference"]
exclude_patterns = ["_*"]
nitpicky = True  # a reference that leads nowhere is a warning too

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autosummary_generate = False
autodoc_default_options = {"members": True}
autodoc_typehints = "none"  # numpydoc says the types in words
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["dense_xp.css"]
