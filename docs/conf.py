"""Sphinx configuration; ``make docs`` builds the site with warnings as errors.

Pages about methods, tasks, suites and commands are written anew into ``generated/`` at every build, so they
cannot differ from the code.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import _generate  # noqa: E402 - found through the path set above

PROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "marlzoo"
author = PROJECT["authors"][0]["name"]
project_copyright = author
version = release = _generate.version()

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_generate", "generated/parts"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

# "cache" runs a notebook again when it has changed; "off" leaves outputs out; "force" runs all of them.
nb_execution_mode = os.environ.get("MARLZOO_DOCS_NOTEBOOKS", "cache")
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_timeout = 300
nb_execution_in_temp = True  # what they write does not belong into the checkout
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Class attributes that a method sets", "params_style")]

html_theme = "furo"
html_title = f"marlzoo {version}"
html_theme_options = {
    "source_repository": PROJECT["urls"]["Repository"],
    "source_branch": "main",
    "source_directory": "docs/",
}


def setup(app: Any) -> None:
    """Write the generated pages before the sources are looked for."""
    app.connect("builder-inited", lambda app: _generate.write(Path(app.srcdir) / "generated"))
