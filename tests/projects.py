"""Copies of the template for the tests that run its commands, and the commands themselves."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ("base", "config", "logger", "utils", "parse_config.py")
OWN = ("train.py", "test.py", "config.json", "data", "data_loader", "model", "trainer")


def copy_template(folder, parts=SHARED + OWN):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


def command(folder, *arguments, python=(), cwd=None, env=None, **kwargs):
    """Run python in a project; returns the completed process with text output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **(env or {})}
    script = [str(folder / arguments[0]) if cwd else arguments[0], *map(str, arguments[1:])]
    return subprocess.run(
        [sys.executable, *python, *script], cwd=cwd or folder, env=environment, capture_output=True, text=True, **kwargs
    )
