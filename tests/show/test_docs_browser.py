"""The documentation in a real browser: no barrier, no console message, no request but to itself."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.show.test_browser import CHROMIUM, DARK, FLAGS, LIGHT, OWN, _result, axe, pytestmark

__all__ = ["axe", "pytestmark"]  # the fixture, and that these are proofs

FETCHED = re.compile(r"^(https?:)?//.*(\.js|\.css|\.woff2?|\.svg|\.png|fonts)")
"""What a page asks for by itself, as opposed to where it links to."""

PAGES = ("index", "compare", "notebook", "study", "guide/own-model", "course/1-curvature", "reference/spectra",
         "concepts/nulls", "decisions/index")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    subprocess.run([sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", "docs", folder], check=True)
    return folder


@pytest.fixture
def served(site: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if "://" in self.path:
                self.path = "/" + self.path.split("/", 3)[3]
            super().do_GET()

        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(403)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{running.server_address[1]}", asked
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_no_barrier_and_nothing_to_say(
    site: Path, served: tuple[str, list[str]], axe: str, page: str, scheme: str, tmp_path: Path
) -> None:
    address, asked = served
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    looked = (site / page).with_name("looked-at.html")
    looked.write_text(text.replace("</body>", f'<pre id="result"></pre><script>{axe}</script></body>'))
    command = [
        str(CHROMIUM), *FLAGS, scheme, f"--user-data-dir={tmp_path}", f"--proxy-server={address}",
        "--proxy-bypass-list=<-loopback>", "--window-size=1280,900", "--virtual-time-budget=8000", "--dump-dom",
        f"http://{address}/{looked.relative_to(site)}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(_result(done.stdout))
    assert found["passes"] > 15  # it did look
    assert [one for one in found["told"] if one[0] in ("serious", "critical")] == []
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    elsewhere = [path for path in asked if "://" in path and address not in path]
    assert [path for path in elsewhere if not OWN.search(path)] == []
    assert [link for link in re.findall(r'(?:src|href)="([^"]*)"', text) if FETCHED.search(link)] == []
