"""What the site (``mkdocs.yml``) shows of files outside ``docs``: the README as its first page, and
the figures that pages show.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}  # fmt: skip


def on_files(files: Any, config: Any) -> Any:
    """Add them."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        text = inside((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "LICENSE.txt", abs_src_path=str(ROOT / "LICENSE")))
    for figure in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        place = f"benchmarks/results/{figure.name}"
        files.append(File.generated(config, place, abs_src_path=str(figure)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Figures are found beside the pages."""
    return markdown.replace("](../benchmarks/", "](benchmarks/")


def inside(text: str) -> str:
    """Links of a file at the root as links of a page."""
    text = re.sub(r"\]\(docs/", "](", text).replace("](README.md", "](index.md")
    return text.replace("](LICENSE)", "](LICENSE.txt)")
