"""The documentation site builds without warnings or a network, and has a page for every public name."""

import html
import inspect
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import neurocnn as nc

pytest.importorskip("sphinx", reason="needs the extra docs")
from sphinx.util.inventory import InventoryFile

pytestmark = pytest.mark.cpu
DOCS = Path(__file__).parents[1] / "docs"
#: Code that builds the site in a process without network, except connections within this machine.
BUILD = """
import socket, sys
from sphinx.cmd.build import main

connect = socket.socket.connect
def refuse(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise AssertionError(f"the build of the site connects to {address}")
    return connect(self, address)
socket.socket.connect = refuse
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Sphinx writes pages below docs/, so that only one of the processes may build the site.
        folder = folder.parent
    html = folder / "site" / "html"
    with FileLock(folder / "site.lock"):
        if not html.exists():
            build(html)
    return html


def build(html: Path) -> None:
    arguments = ["-q", "-W", "--keep-going", "-d", str(html.parent / "doctrees"), str(DOCS), str(html)]
    built = subprocess.run([sys.executable, "-c", BUILD, *arguments], capture_output=True, text=True)
    if built.returncode != 0:
        shutil.rmtree(html, ignore_errors=True)
    assert built.returncode == 0, built.stdout + built.stderr


def public_names() -> Iterator[str]:
    """Yield the public names, and the dotted names of their documented methods and properties."""
    for name in nc.__all__:
        yield f"neurocnn.{name}"
        one = getattr(nc, name)
        if inspect.isclass(one):
            for member, value in inspect.getmembers(one):
                function = getattr(value, "fget", getattr(value, "__func__", value))
                own = str(getattr(function, "__module__", "")).startswith("neurocnn.")
                hidden = member.startswith("_") or member == "extra_repr"
                if own and not hidden and inspect.isfunction(function) and function.__doc__:
                    yield f"neurocnn.{name}.{member}"
    yield from (f"neurocnn.plotting.{name}" for name in nc.plotting.__all__)


def test_every_public_name_has_its_own_page(site: Path):
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    pages = {
        name: item.uri
        for kind, items in inventory.items()
        if kind.startswith("py:")
        for name, item in items.items()
    }
    names = list(public_names())
    assert len(names) > 100
    missing = [
        name for name in names if not pages.get(name, "").startswith(f"generated/reference/{name}.html")
    ]
    assert not missing


def test_every_page_of_a_public_name_has_an_executed_example(site: Path):
    """A method without an example of its own shows the examples of its class, which must use the method."""
    missing = []
    for name in public_names():
        page = (site / f"generated/reference/{name}.html").read_text(encoding="utf-8")
        examples = html.unescape(
            re.sub(r"<[^>]+>", "", page.rpartition(">Examples</p>")[2].partition("</dd>")[0])
        )
        member = name.split(".")[-1]
        is_forward = member == "forward"  # a module is called as a function
        is_used = name.count(".") == 1 or is_forward or re.search(rf"\b{member}\b", examples)
        missing += [name] * (">>>" not in examples or not is_used)
    assert not missing


def test_no_page_loads_anything_from_another_site(site: Path):
    loads = r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^\"']*"
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    assert not [found for page in pages for found in re.findall(loads, page.read_text(encoding="utf-8"))]
    styles = [page.read_text(encoding="utf-8") for page in site.rglob("*.css")]
    assert not [found for style in styles for found in re.findall(r"(?:@import|url\()\W*https?://", style)]


def test_public_names_in_the_text_link_to_their_pages(site: Path):
    links = {
        "how-to/use-images-from-a-table.html": [
            "Images",
            "Experiment.load",
            "Results.predict",
            "CapsDataset",
        ],
        "concepts/leakage.html": ["kfold", "holdout", "LeakError", "Trainer.fit"],
        "generated/gallery/plot_autoencoder.html": ["CNN_Transformer", "transfer_weights"],
        "index.html": ["read_bids", "make_caps"],
        "generated/reference/neurocnn.soft_vote.html": ["TableError", "part_weights"],
    }
    for page, names in links.items():
        found = re.findall(r'href="[^"]*#neurocnn\.([\w.]+)"', (site / page).read_text(encoding="utf-8"))
        assert not set(names) - set(found), page


def test_no_page_contains_markup_or_empty_code(site: Path):
    """Signatures that Sphinx cannot parse, `@` in a sentence, and a comment before the first text cause these."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'href="mailto:|~(?:typing|collections|torch|numpy|pandas)\.', text), page.name
        assert not re.search(r"<pre>(?:<span></span>)?\s*</pre>", text), page.name


@pytest.mark.parametrize("section", ["how-to", "concepts"])
def test_each_page_is_listed_with_its_section(section: str):
    listed = re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / section / "index.md").read_text(encoding="utf-8"))
    assert sorted([*listed, "index.md"]) == sorted(page.name for page in (DOCS / section).glob("*.md"))
