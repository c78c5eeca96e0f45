"""The report in a real browser: no violation of its policy, no console error, no request but for the page itself."""

import http.server
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.show.sample import analysis
from thalweg.show.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--enable-logging=stderr", "--disable-features=OptimizationHints,MediaRouter,Translate",
]  # fmt: skip
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
OWN = re.compile(r"^(http://)?[\w.-]+\.google(apis)?\.com[:/]|favicon")
"""What the browser asks for by itself, whatever the page: refused by the proxy, too."""

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]


@pytest.fixture
def server(tmp_path):
    """Serves the folder, and stands as the proxy of all other traffic, which it refuses and records."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def do_GET(self):
            asked.append(self.path)
            if "://" in self.path:
                self.path = "/" + self.path.split("/", 3)[3]
            super().do_GET()

        def do_CONNECT(self):
            asked.append(self.path)
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running.server_address[1], asked, tmp_path
        running.shutdown()
        thread.join()


def _open(page: str, port: int, folder: Path, width: int, scheme: str) -> tuple[str, str]:
    """The document after it was laid out, and what the browser's console said."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    address = f"http://127.0.0.1:{port}/page.html"
    command = [
        CHROMIUM, *FLAGS, scheme, f"--user-data-dir={folder / f'profile-{width}-{len(scheme)}'}",
        f"--proxy-server=127.0.0.1:{port}", "--proxy-bypass-list=<-loopback>", f"--window-size={width},900",
        f"--screenshot={folder / 'page.png'}", "--dump-dom", address,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_browser_has_nothing_to_say(server, language, scheme, width):
    port, asked, folder = server
    document, console = _open(render(analysis(), language, ("en", "ja")), port, folder, width, scheme)
    assert console == ""
    assert document.count('class="plot"') == 13
    assert {path for path in asked if not OWN.search(path)} == {f"http://127.0.0.1:{port}/page.html"}


def test_the_check_would_see_a_violation_and_a_request(server):
    port, asked, folder = server
    page = render(analysis(), "en").replace("<main>", '<main style="color:red"><img src="http://example.org/x.png">')
    _, console = _open(page, port, folder, 1280, LIGHT)
    assert console.count("Content Security Policy") >= 2
    loose = page.replace("default-src &#39;none&#39;", "default-src *")
    _open(loose, port, folder, 1281, LIGHT)
    assert "http://example.org/x.png" in asked
