"""Sphinx builds the pages of this folder as HTML: `make docs`. They are plain Markdown, and read well without it."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
# Pages beside the code that these link to. Sphinx builds only what lies below this folder, so copies of them are put here.
BESIDE_THE_CODE = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "images/README.md",
    "manifests/README.md",
)
COPIES = "_beside"
LINK = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<page>[\w/]+\.md)")

project = "KFP Vision"
html_title = project
html_theme = "furo"
html_static_path = html_css_files = ["style.css"]
extensions = ["myst_parser"]
myst_heading_anchors = 4  # the anchors that a code host gives headings
exclude_patterns = ["_build"]
html_show_sphinx = False
html_show_copyright = False
# Addresses of examples, and of what runs on one's own machine.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1)\b", r"https?://[\w.]*example\.org\b"]


def setup(app: Sphinx) -> None:
    """Copies the pages beside the code, and turns links to them into links to the copies.

    Args:
        app: Sphinx.
    """
    (HERE / COPIES).mkdir(exist_ok=True)
    for page in BESIDE_THE_CODE:
        text = (HERE.parent / page).read_text(encoding="utf-8")
        folder = f"../../{page.rpartition('/')[0]}/".replace("//", "/")
        text = re.sub(r"\]\((?!https?:|#)", f"]({folder}", text)
        (HERE / COPIES / _copy_name(page)).write_text(f"---\norphan: true\n---\n\n{text}", encoding="utf-8")
    app.connect("source-read", _link_to_copies)


def _link_to_copies(_: Sphinx, name: str, source: list[str]) -> None:
    def rewrite(match: re.Match[str]) -> str:
        target = os.path.normpath((HERE / name).parent / match["up"] / match["page"])
        page = Path(target).relative_to(HERE.parent).as_posix()
        if page.startswith(f"{HERE.name}/"):
            return f"](/{page.removeprefix(f'{HERE.name}/')}"
        return f"](/{COPIES}/{_copy_name(page)}" if page in BESIDE_THE_CODE else match[0]

    source[0] = LINK.sub(rewrite, source[0])


def _copy_name(page: str) -> str:
    return page.replace("/", "-").lower()
