"""What the documents show exists: their links lead somewhere, their code is Python, their names are public."""

import ast
import re
from pathlib import Path

import pytest

import neurocnn as nc

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    missing = [name for name in targets if "://" not in name and not (page.parent / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_uses_public_names_only(page: Path):
    text = page.read_text(encoding="utf-8")
    used = set()
    for block in re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nc":
                used.add(node.attr)
    assert used <= {*nc.__all__, "__version__"}


def test_every_public_name_has_a_docstring():
    missing = [name for name in nc.__all__ if not (getattr(nc, name).__doc__ or "").strip()]
    assert nc.__all__ == sorted(nc.__all__)
    assert not missing
