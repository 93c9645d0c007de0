"""What a user sees: TensorBoard and the report's page in headless Chromium, driven by its DevTools protocol.

Chromium speaks the protocol over two pipes (--remote-debugging-pipe: JSON messages that end with a zero byte), so no
websocket library is needed.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

BIN = Path(sys.executable).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SMALL = (
    "experiment=quickstart", "hp.N=8", "hp.M=12", "dataset.batch_size=4", "engine.epoch_steps=4", "engine.num_epochs=4",
    "engine.threads=1", "infer.max_images=1", "infer.every_n_epochs=2", "engine.device=cpu", "ledger.every_n_steps=2",
)  # fmt: skip
ARMS = {"plain": ("conv=plain",), "spectral": ("conv.switch.trigger=never",)}
SECONDS = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH"),
]

# All text of a page, shadow roots included, which `document.body.innerText` leaves out.
TEXT = """(() => {
  const parts = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.childNodes) {
      if (child.nodeType === 3) parts.push(child.textContent);
      else if (!['STYLE', 'SCRIPT'].includes(child.nodeName)) walk(child);
    }
  };
  if (document.body) walk(document.body);
  return parts.join(' ');
})()"""


# The curves of the Custom Scalars tab, without the pale ones before smoothing.
LINES = """(() => {
  const found = [];
  const walk = node => {
    if (node.shadowRoot) walk(node.shadowRoot);
    for (const child of node.children || []) {
      if (child.matches('path.line') && !child.closest('.ghost') && child.getAttribute('d').includes('L'))
        found.push({stroke: getComputedStyle(child).stroke});
      walk(child);
    }
  };
  walk(document.body);
  return found;
})()"""


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = _high_pipe()
        theirs_in, ours_out = _high_pipe()
        flags = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "--window-size=1600,1400", "--no-first-run", "about:blank",
        )  # fmt: skip
        self.pid = os.posix_spawn(
            str(CHROMIUM),
            [str(CHROMIUM), *flags],
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                (os.POSIX_SPAWN_DUP2, theirs_out, 4),
            ],
            setpgroup=0,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out, self._rest, self._number = ours_in, ours_out, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come first are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            received = os.read(self._in, 1 << 16)
            assert received, "chromium closed its pipe"
            self._rest += received
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, *patterns: str) -> str:
        """Wait until a page's text has all the patterns."""
        text, end = "", time.monotonic() + SECONDS
        while time.monotonic() < end:
            text = re.sub(r"\s+", " ", self.evaluate(TEXT))
            if all(re.search(pattern, text) for pattern in patterns):
                return text
            time.sleep(0.3)
        missing = [pattern for pattern in patterns if not re.search(pattern, text)]
        raise AssertionError(f"{missing} not in the page: {text[:2000]}")

    def screenshot(self) -> np.ndarray:
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def urls(self) -> set[str]:
        """All addresses that the page asked for."""
        requests = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"] for event in requests}

    def complaints(self) -> list[str]:
        """Uncaught exceptions, and errors in the console and the log."""
        found = []
        for event in self.events:
            method, params = event.get("method"), event.get("params", {})
            is_error = (
                method == "Runtime.exceptionThrown"
                or (method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"))
                or (method == "Log.entryAdded" and params["entry"]["level"] == "error")
            )
            if is_error:
                found.append(json.dumps(params)[:500])
        return found

    def close(self) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._in)
        os.close(self._out)


def _high_pipe() -> tuple[int, int]:
    # Away from 3 and 4, which are the child's ends.
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a plain and a spectral run."""
    folder = tmp_path_factory.mktemp("browser")
    for arm in ARMS.values():
        words = [str(BIN / "rdtrain"), *SMALL, *arm]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.fixture
def tensorboard(runs: Path) -> Iterator[str]:
    """Address of a TensorBoard on the runs, reachable from this machine only."""
    words = [str(BIN / "tensorboard"), "--logdir", str(runs), "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen([*words, "--load_fast=false"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
            break
    else:
        raise AssertionError("TensorBoard did not start")
    yield found[0]
    process.terminate()
    process.communicate(timeout=30)


def _names(runs: Path) -> list[str]:
    return sorted(path.name for path in runs.iterdir() if (path / "config.yaml").exists())


def test_tensorboard_lays_the_runs_over_each_other(browser: Browser, tensorboard: str, runs: Path) -> None:
    names = _names(runs)
    assert len(names) == len(ARMS)
    browser.call("Page.navigate", url=f"{tensorboard}#custom_scalars")
    # As many curves a chart as it has tags, for each of the two runs.
    expected = {"forward: train, valid, infer": 6, "infer: forward, real": 4, "train: noise, round, ste": 6}
    text = browser.wait_for(*names, *(rf"{chart}[ \d.]* Matches \({curves}\)" for chart, curves in expected.items()))
    assert "Loss [1]" in text and "Rate [bit/pixel]" in text and "PSNR [dB]" in text
    end = time.monotonic() + SECONDS
    while len(lines := browser.evaluate(LINES)) < sum(expected.values()) and time.monotonic() < end:
        time.sleep(0.2)  # charts are drawn after their text
    by_colour = {
        colour: [line for line in lines if line["stroke"] == colour] for colour in {x["stroke"] for x in lines}
    }
    assert len(by_colour) == len(ARMS), by_colour.keys()
    assert all(len(of_run) >= sum(expected.values()) / 2 for of_run in by_colour.values())
    pixels = browser.screenshot().reshape(-1, 3)
    for colour in by_colour:  # they are not only there but seen
        rgb = [int(value) for value in re.findall(r"\d+", colour)[:3]]
        assert (pixels == rgb).all(1).sum() > 500, colour
    assert browser.complaints() == []


def test_tensorboard_shows_scalars_and_images(browser: Browser, tensorboard: str, runs: Path) -> None:
    names = _names(runs)
    browser.call("Page.navigate", url=f"{tensorboard}?tagFilter=valid%2Floss#timeseries")
    # The card's table has each run's last value, behind the smoothed one.
    finals = [json.loads((runs / name / "summary.json").read_text())["final"] for name in names]
    losses = [f"{final['valid/loss/forward/unclamped']:.4f}".rstrip("0") for final in finals]
    rows = [rf"{name}/tensorboard [\d.]+ {re.escape(loss)} 16 " for name, loss in zip(names, losses, strict=True)]
    browser.wait_for("valid/loss/forward /unclamped .*Smoothed Value", *rows)
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=f"{tensorboard}#images")
    browser.wait_for(*names, *(f"figures/{name}" for name in ("rd-plane", "feature-maps", "channel-rates")))
    assert browser.complaints() == []


def test_the_reports_page_opens_from_disk_without_a_network(browser: Browser, runs: Path, tmp_path: Path) -> None:
    words = [str(BIN / "rdtrain-report"), str(runs), "--out", str(tmp_path / "report")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    browser.call(
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )
    browser.call("Page.navigate", url=(tmp_path / "report" / "report.html").as_uri())
    text = browser.wait_for(*(name.split("-")[0] for name in _names(runs)), "plain", "spectral")
    assert len(text) > 2000
    widths = browser.evaluate(
        "Promise.all([...document.images].map(async image => (await image.decode(), image.naturalWidth)))"
    )
    assert len(widths) >= 4 and all(width > 0 for width in widths)
    rows = browser.evaluate("[...document.querySelectorAll('table')].map(table => table.rows.length)")
    assert len(rows) >= 2 and all(row > 1 for row in rows)
    assert {url.split(":")[0] for url in browser.urls()} <= {"file", "data", "about"}
    assert browser.complaints() == []
