"""Draw the pictures that the pages show: python tools/draw_pages.py

They are of the last commit, trained in a clone. Needs Chromium, and what a sweep and TensorBoard
need. A GitHub page is some 830 pixels wide: what is drawn wider is hard to read there.
"""

import argparse
import contextlib
import html
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.files import ROOT

PICTURES = ROOT / "docs" / "pictures"
#: What a terminal looks like.
_TERMINAL = """<!DOCTYPE html><meta charset="utf-8"><style>
body {{ margin: 0; background: #1e1f24; color: #e6e6e6; }}
pre {{ margin: 0; padding: 16px; font: 14px/1.4 "DejaVu Sans Mono", monospace;
       white-space: pre-wrap; overflow-wrap: anywhere; }}
</style><pre><b>$ {command}</b>
{printed}</pre>"""
#: Of the characters in a line of it.
_COLUMNS = "90"
#: Where a reader's project is.
_HOME = "/home/me/project"
_CHROMIUM = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")


class Size(NamedTuple):
    """Of a window, in pixels of a page; a picture has twice as many."""

    width: int
    height: int


def draw(browser: str, address: str, size: Size, file: Path) -> None:
    """Write the picture of a page, in 128 colours."""
    window = f"--window-size={size.width},{size.height}"
    options = [*_CHROMIUM, "--force-device-scale-factor=2", window, "--virtual-time-budget=30000"]
    command = [browser, *options, f"--screenshot={file}", address]
    subprocess.run(command, check=True, capture_output=True)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def typed(project: Path, *words: str) -> str:
    """Run a command in the project; what it prints."""
    environment = {**os.environ, "COLUMNS": _COLUMNS}
    command = [sys.executable, *words]
    done = subprocess.run(
        command, cwd=project, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def terminal(project: Path) -> str:
    """What the terminal shows of a training, as a page."""
    words = ["train.py", "-c", "config.json", "--run_id", "first", "--set", "trainer.epochs=5"]
    printed = typed(project, *words).replace(str(project), _HOME)
    command = html.escape(" ".join(["python", *words]))
    return _TERMINAL.format(command=command, printed=html.escape(printed))


def sweep(project: Path) -> None:
    """Run the sweep of docs/tools.md, with fewer points of more epochs."""
    page = (project / "docs" / "tools.md").read_text(encoding="utf-8")
    spec = json.loads(re.findall(r"```json\n(.*?)```", page, re.DOTALL)[0])
    spec["points"] = 9
    spec["set"]["trainer.epochs"] = 4
    (project / "sweep.json").write_text(json.dumps(spec), encoding="utf-8")
    typed(project, "tools/sweep.py", "sweep.json")


@contextlib.contextmanager
def tensorboard(project: Path) -> Iterator[str]:
    """Serve the runs of the project; the address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["tensorboard.main", "--logdir", "saved/log", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=project, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        yield f"http://localhost:{port}/#scalars"
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int) -> None:
    """Wait until somebody listens, and has read what there is.

    Raises:
        RuntimeError: nobody does within half a minute.
    """
    for _ in range(60):
        time.sleep(0.5)
        with socket.socket() as asking:
            if asking.connect_ex(("localhost", port)) == 0:
                time.sleep(5)
                return
    raise RuntimeError(f"nobody listens at port {port}")


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description="Draw the pictures that the pages show.")
    default = shutil.which("chromium") or "chromium"
    parser.add_argument("--browser", default=default, help="Chromium's command")
    browser = parser.parse_args().browser
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(project)], check=True)
        page = Path(folder) / "page.html"
        page.write_text(terminal(project), encoding="utf-8")
        draw(browser, page.as_uri(), Size(830, 510), PICTURES / "terminal.png")
        for rate in ("0.0005", "0.01"):
            short = ["--set", "trainer.epochs=8", "--set", f"optimizer.args.lr={rate}"]
            typed(project, "train.py", "-c", "config.json", "--run_id", f"lr{rate}", *short)
        with tensorboard(project) as address:
            draw(browser, address, Size(1000, 790), PICTURES / "tensorboard.png")
        sweep(project)
        typed(project, "tools/runs.py", "saved/sweeps/sweep", "--html", str(page))
        draw(browser, page.as_uri(), Size(960, 1095), PICTURES / "runs.png")


if __name__ == "__main__":
    main()
