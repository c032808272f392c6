"""The documentation as `make docs` built it: complete, and readable offline."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SITE = DOCS / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)

# A directive, and what stands between its options and its end.
TOCTREE = re.compile(r"^```\{toctree\}\n(?::.*\n)*\n(.*?)^```", re.M | re.S)


def entries(page):
    text = page.read_text(encoding="utf-8")
    return [name for tree in TOCTREE.findall(text) for name in tree.split()]


@pytest.mark.parametrize(
    "page", [p for p in DOCS.rglob("*.md") if entries(p)], ids=lambda page: page.stem
)
def test_at_most_seven_entries_a_level(page):
    assert len(entries(page)) <= 7


class Page(HTMLParser):
    """Collects what a page loads, where it links to, and what it can be linked by."""

    def __init__(self, path):
        super().__init__()
        self.loaded, self.links, self.anchors = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors.add(given.get("id"))
        if tag in ("script", "img", "source", "iframe"):
            self.loaded.add(given.get("src"))
        elif tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.add(given.get("href"))
        elif tag == "a":
            self.links.add(given.get("href"))


@pytest.fixture(scope="module")
def pages():
    if not (SITE / "index.html").exists():
        pytest.skip("needs the built documentation: make docs")
    return {
        path: Page(path) for path in SITE.rglob("*.html") if "_static" not in path.parts
    }


def test_nothing_is_loaded_from_elsewhere(pages):
    for path, page in pages.items():
        for address in filter(None, page.loaded):
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            assert not parts.scheme, f"{path.name}: {address}"
            assert not parts.netloc, f"{path.name}: {address}"
            assert (path.parent / unquote(parts.path)).exists(), f"{path}: {address}"


def test_links_within_lead_somewhere(pages):
    for path, page in pages.items():
        for address in filter(None, page.links):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            place = path.parent / unquote(parts.path) if parts.path else path
            target = place.resolve()
            assert target.exists(), f"{path.name}: {address}"
            if parts.fragment and target in pages:
                anchors = pages[target].anchors
                assert unquote(parts.fragment) in anchors, f"{path.name}: {address}"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["index", "mathematics", "untrained", "api/torch"])
def test_in_a_browser_without_a_connection(pages, name, tmp_path):
    path = SITE / f"{name}.html"
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            "--allow-file-access-from-files",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path}",
            "--virtual-time-budget=20000",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said
    formulas = path.read_text(encoding="utf-8").count('class="math notranslate')
    assert done.stdout.count("<mjx-container") >= formulas
    assert "<mjx-merror" not in done.stdout
