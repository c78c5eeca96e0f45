"""The report in a real browser: no violation of its policy, no console error, no request but for the page itself."""

import html
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.show.sample import analysis, trial
from thalweg.show.comparison import render as compare_pages
from thalweg.show.messages import Words
from thalweg.show.numbers import number
from thalweg.show.report import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--enable-logging=stderr", "--disable-features=OptimizationHints,MediaRouter,Translate",
]  # fmt: skip
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"
OWN = re.compile(
    r"^(http://)?(www|accounts|android|clients\d*|update|optimizationguide-pa|content-autofill|safebrowsing)"
    r"\.google(apis)?\.com[:/]|favicon"
)
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
    assert document.count('class="plot"') == 26
    assert {path for path in asked if not OWN.search(path)} == {f"http://127.0.0.1:{port}/page.html"}


def test_the_check_would_see_a_violation_and_a_request(server):
    port, asked, folder = server
    page = render(analysis(), "en").replace("<main>", '<main style="color:red"><img src="http://example.org/x.png">')
    _, console = _open(page, port, folder, 1280, LIGHT)
    assert console.count("Content Security Policy") >= 2
    loose = page.replace("default-src &#39;none&#39;", "default-src *")
    _open(loose, port, folder, 1281, LIGHT)
    assert "http://example.org/x.png" in asked


def _driven(page: str, code: str) -> str:
    """The page without its policy, which would forbid it, and with a script that leaves a result in a `pre`."""
    loose = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert loose != page
    return loose.replace("</body>", f'<pre id="result"></pre><script>{code}</script></body>')


def _result(document: str) -> str:
    return html.unescape(re.search(r'<pre id="result">(.*?)</pre>', document, re.S)[1])


SORTS = """
const table = document.querySelector("#directions table.sorts");
const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === "gain on training data");
const read = () => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim());
const given = read(), press = table.tHead.rows[0].cells[column].querySelector("button");
press.click(); const up = read(), state = press.parentNode.getAttribute("aria-sort");
press.click(); const down = read();
document.getElementById("result").textContent = JSON.stringify({ given, up, down, state });
"""


def test_a_press_sorts_a_table_by_its_numbers(server):
    port, _, folder = server
    data = analysis()
    gains = [0.5, 3e-7, 1200.0, -0.02, 1e-5, None, 0.0]
    row = data["directions"][0]
    data["directions"] = [{**row, "gain": gain, "bounded": False} for gain in gains]
    page = _driven(render(data, "en"), SORTS.replace("gain on training data", _head("gain")))
    found = json.loads(_result(_open(page, port, folder, 1280, LIGHT)[0]))
    wanted = [number(gain) for gain in sorted(gain for gain in gains if gain is not None)]
    assert found["given"] == [number(gain) for gain in gains]
    assert found["up"] == [*wanted, "–"]
    assert found["down"] == [*reversed(wanted), "–"]
    assert found["state"] == "ascending"


def test_durations_are_sorted_by_their_length(server):
    port, _, folder = server
    data = analysis()
    times = {"trajectory": 0.35, "spectrum": 180.0, "layers": 19.0, "drift": 8000.0, "noise": 0.0004}
    data["cost"]["seconds"] = {**times, "total": 8200.0}
    for language in ("en", "ja"):
        words = Words(language)
        code = """
const table = document.querySelector("#cost table.sorts");
table.tHead.rows[0].cells[1].querySelector("button").click();
const shown = [...table.tBodies[0].rows].map((row) => row.cells[1].textContent.trim());
document.getElementById("result").textContent = JSON.stringify(shown);
"""
        found = json.loads(_result(_open(_driven(render(data, language), code), port, folder, 1280, LIGHT)[0]))
        assert found == [words.duration(seconds) for seconds in sorted([*times.values(), 8200.0])]


TOUCHED = """
const stage = document.querySelector("dialog"), toggles = [...document.querySelectorAll("#explained .toggle")];
const out = {}, press = (element) => element.click();
const at = (plot, mark) => {
  const box = mark.getBoundingClientRect();
  const where = { bubbles: true, clientX: box.left + box.width / 2 + 3, clientY: box.top + box.height / 2 };
  plot.dispatchEvent(new PointerEvent("pointermove", where));
};
const tip = document.querySelector(".tip"), plot = document.querySelector("#heat_map svg.plot");
const mark = plot.querySelectorAll("[data-tip]")[12];
at(plot, mark);
out.tip = [tip.hidden, tip.textContent === mark.dataset.tip];
plot.dispatchEvent(new PointerEvent("pointerleave"));
out.left = tip.hidden;
const key = (name) => stage.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
const home = plot.parentNode, first = plot.getAttribute("viewBox"), enlarge = home.querySelector(".enlarge");
out.label = enlarge.getAttribute("aria-label");
press(enlarge);
out.open = [stage.open, stage.contains(plot)];
at(plot, mark);
out.inside = [!tip.hidden, stage.contains(tip)];
key("+"); key("ArrowRight");
const [x, , width] = plot.getAttribute("viewBox").split(" ").map(Number);
out.nearer = [x, width];
key("0");
out.whole = plot.getAttribute("viewBox").split(" ").map(Number).join(" ") === first;
const middle = { bubbles: true, cancelable: true, deltaY: -1, clientX: innerWidth / 2, clientY: innerHeight / 2 };
plot.dispatchEvent(new WheelEvent("wheel", middle));
out.wheeled = Number(plot.getAttribute("viewBox").split(" ")[2]);
const was = plot.getAttribute("viewBox").split(" ").map(Number).join(" ");
stage.addEventListener("close", () => {
  out.closed = [stage.open, plot.parentNode === home, document.activeElement === enlarge];
  out.restored = plot.getAttribute("viewBox").split(" ").map(Number).join(" ") === first;
  const toggle = toggles.find((one) => one.closest("li").dataset.hue === "updates");
  const drawn = [...document.querySelectorAll("#explained .plot .f-updates, #explained .plot .s-updates")];
  const seen = () => drawn.filter((one) => getComputedStyle(one).display !== "none").length;
  const before = seen();
  press(toggle); const gone = seen(), state = toggle.getAttribute("aria-pressed");
  press(toggle);
  out.toggled = [before > 10, gone, state, seen() === before];
  document.getElementById("result").textContent = JSON.stringify(out);
});
stage.dispatchEvent(new KeyboardEvent("keydown", { key: "+", ctrlKey: true }));
out.ctrl = plot.getAttribute("viewBox").split(" ").map(Number).join(" ") === was;
press(stage.querySelector(".bar button:last-of-type"));
"""


def test_pictures_answer_the_pointer_and_the_keyboard(server):
    port, _, folder = server
    page = _driven(render(analysis(), "en"), TOUCHED)
    found = json.loads(_result(_open(page, port, folder, 1280, LIGHT)[0]))
    assert found["tip"] == [False, True]
    assert found["left"] is True
    assert found["label"].startswith("Enlarge: ")
    assert found["open"] == [True, True]
    assert found["inside"] == [True, True]
    x, width = found["nearer"]
    assert width == pytest.approx(0.7 * 360)
    assert x == pytest.approx(0.15 * 360 + 0.1 * width)
    assert found["whole"] is True
    assert found["wheeled"] == pytest.approx(0.85 * 360)
    assert found["ctrl"] is True
    assert found["closed"] == [False, True, True]
    assert found["restored"] is True
    assert found["toggled"] == [True, 0, "false", True]


def _head(column: str) -> str:
    return Words("en").plain(f"directions.column.{column}")


@pytest.fixture(scope="module")
def axe():
    """axe-core, and what leaves its findings in the page; `make prove` installs it."""
    found = importlib.util.find_spec("axe_playwright_python")
    assert found is not None, "pip install --no-deps -r tests/show/requirements.txt"
    code = (Path(found.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")
    return code.replace("</script", "<\\/script") + CHECK


CHECK = """
axe.run(document, { resultTypes: ["violations"] }).then((found) => {
  const told = found.violations.map((one) => [one.impact, one.id, one.nodes.slice(0, 3).map((node) => node.html)]);
  document.getElementById("result").textContent = JSON.stringify({ told, passes: found.passes.length });
});
"""


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_axe_finds_no_barrier(server, axe, language, scheme):
    port, _, folder = server
    page = render({**analysis(), "trial": trial()}, language, ("en", "ja"))
    document, _ = _open(_driven(page, axe), port, folder, 1280, scheme)
    found = json.loads(_result(document))
    assert found["passes"] > 20  # it did look
    assert found["told"] == []


@pytest.mark.parametrize("language", ["en", "ja"])
def test_runs_side_by_side_are_quiet_and_without_barriers(server, axe, language):
    port, asked, folder = server
    page = compare_pages([analysis(), {**analysis(), "trial": trial()}], Words(language), ("en", "ja"))
    _, console = _open(page, port, folder, 390, DARK)
    assert console == ""
    assert {path for path in asked if not OWN.search(path)} == {f"http://127.0.0.1:{port}/page.html"}
    document, _ = _open(_driven(page, axe), port, folder, 1280, LIGHT)
    assert json.loads(_result(document))["told"] == []


def test_axe_would_find_a_barrier(server, axe):
    port, _, folder = server
    page = render(analysis(), "en").replace('role="img" aria-label', 'role="img" data-label')
    document, _ = _open(_driven(page, axe), port, folder, 1280, LIGHT)
    assert "svg-img-alt" in [one[1] for one in json.loads(_result(document))["told"]]
