"""How the documentation is built: `make docs`."""

from __future__ import annotations

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
