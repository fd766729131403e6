"""Functions that find and run the code of the pages of the documentation."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: Path, kind: str) -> list[str]:
    """Return the code of the fenced blocks of a page whose info string is `kind`, such as "python"."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


PAGES = [
    page for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]) if blocks(page, r"python[^\n]*")
]


def run(page: str, names: dict[str, object] | None = None) -> dict[str, object]:
    """Run the blocks of a page one after the other, as a script; return the names that they define."""
    names = {"__name__": "__main__"} | (names or {})
    for block in blocks(ROOT / page, "python"):
        exec(compile(block, page, "exec"), names)
    return names
