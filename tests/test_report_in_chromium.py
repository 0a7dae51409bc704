"""The report page in a real browser: nothing is said on its console, asked for, or cut off."""

from __future__ import annotations

import functools
import shutil
import subprocess
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest

from fairsvd import FairLRFTransformer
from fairsvd.exceptions import FairsvdWarning
from fairsvd.report import FairnessReport
from helpers import mlp, table, trained

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (Debian: chromium)"),
]

# In a frame, since no window of Chromium is as narrow as a phone.
FRAME = "<html><head><link rel=icon href='data:,'><title></title></head><body style='margin:0'>"
FRAME += "<iframe src='/page' style='border:0;height:12000px;width:{}px'></iframe></body></html>"

# Lists what reaches beyond the right edge, and how wide the page is, in the title.
MEASURE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => !e.closest(".skip, svg g, svg defs, thead") &&
      e.getBoundingClientRect().right > innerWidth + 1);
  parent.document.title = [innerWidth, document.documentElement.scrollWidth,
    wide.map((e) => e.tagName + "." + e.className).slice(0, 5).join(" ")].join("|");
})</script></head>"""
POLICY = "default-src 'none'"


@functools.cache
def page() -> str:
    rows = table(600)
    race = np.array(["a", "b", "a group with a name of many, many words"])[np.arange(600) % 3]
    groups = pd.DataFrame({"sex": np.array(["f", "m"])[rows.group], "race": race})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FairsvdWarning)
        editor = FairLRFTransformer(trained(mlp(), rows), max_steps=20, random_state=0)
        editor.fit(rows.X, rows.y, sensitive_features=groups["sex"])
    return FairnessReport(editor, rows.X, rows.y, groups, owner="x" * 200).to_html()


class Handler(BaseHTTPRequestHandler):
    """Gives the pages, and notes every path that is asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        content = self.server.pages.get(self.path, "")
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(content.encode())

    def log_message(self, *arguments):
        pass


def visit(html: str, width: int, profile, picture=None) -> tuple[list[str], list[str], list[str]]:
    """Open a page: what its console says, the paths that it asks for, and its title's parts."""
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.pages, server.asked = {"/": FRAME.format(width), "/page": html}, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    what = ["--dump-dom"] if picture is None else [f"--screenshot={picture}"]
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--user-data-dir={profile}", f"--window-size={max(width, 500)},12000"),
        *("--disable-background-networking", "--no-first-run", "--enable-logging=stderr"),
        *(*what, f"http://127.0.0.1:{server.server_port}/"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    return said, server.asked, title.split("|")


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_without_a_word_or_request_and_nothing_is_cut(width, tmp_path):
    said, asked, _ = visit(page(), width, tmp_path / "a", tmp_path / "page.png")
    assert said == [] and asked == ["/", "/page"]
    assert (tmp_path / "page.png").stat().st_size > 10_000
    # Measured by a script, which the page's own policy forbids.
    measured = page().replace(POLICY, "default-src 'unsafe-inline'")
    measured = measured.replace("</head>", MEASURE, 1)
    _, _, (inner, scroll, wide) = visit(measured, width, tmp_path / "b")
    assert (int(inner), int(scroll), wide) == (width, width, "")


def test_what_is_wrong_with_a_page_would_be_seen(tmp_path):
    wrong = '<img src="/picture.png"><p style="width:3000px">wide</p><script>nowhere()</script>'
    html = f"<html><head><link rel=icon href='data:,'>{MEASURE}<body>{wrong}</body></html>"
    said, asked, (_, scroll, wide) = visit(html, 1280, tmp_path)
    assert any("nowhere is not defined" in line for line in said)
    assert asked == ["/", "/page", "/picture.png"]
    assert int(scroll) > 3000 and wide.startswith("P")
