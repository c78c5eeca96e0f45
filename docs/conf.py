"""How the documentation is built: `make docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thalweg.version import __version__

project = "thalweg"
author = "The thalweg developers"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb"}
root_doc = "index"
exclude_patterns = ["study", "pictures"]
language = "en"

html_theme = "furo"
html_title = f"thalweg {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#5ab4ec", "color-brand-content": "#5ab4ec"},
}

default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries = False

myst_enable_extensions: list[str] = []  # formulas are written in Unicode: MathJax would be asked for from a CDN
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository; tests/test_documents.py follows those

# What the theme leaves to be wished for by those who listen to a page or use no pointer: (as it is, as it should be).
MENDS = (
    ('class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"'),
    ('<div class="table-wrapper', '<div tabindex="0" role="group" aria-label="Table" class="table-wrapper'),
    ('<aside class="sidebar-drawer"', '<aside aria-label="Site" class="sidebar-drawer"'),
    ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
)


def mend(app: Any, failed: Exception | None) -> None:
    """Mend every page once all are written."""
    if failed is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            text = page.read_text(encoding="utf-8")
            for found, better in MENDS:
                if better not in text:
                    text = text.replace(found, better)
            page.write_text(text, encoding="utf-8")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("build-finished", mend)
