"""Copies of the template for the tests that run its commands, and the commands themselves."""

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import forked

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = ("base", "logger", "machinery", "utils", "parse_config.py")
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


def script(folder, words):
    """Run a script of a project, or code of a test, in this process, which has torch already."""
    own = {
        name.removesuffix(".py")
        for name in (*SHARED, "train", "test", "data_loader", "model", "trainer")
    }
    own |= {"examples", "tools"}
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv, tempfile.tempdir = list(words), str(folder.parent)
    if words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
    else:
        runpy.run_path(words[0], run_name="__main__")


def quick(folder, *arguments):
    """Like `command`, by a fork, without a new interpreter that imports torch."""
    files = [folder.parent / name for name in ("stdout.txt", "stderr.txt")]
    for file in files:
        file.unlink(missing_ok=True)
    words = list(map(str, arguments))
    code = forked.finish(forked.start(script, folder, words, output=files[0], errors=files[1]))
    return subprocess.CompletedProcess(words, code, *(file.read_text() for file in files))


def command(folder, *arguments, python=(), cwd=None, env=None, **kwargs):
    """Run python in a project; returns the completed process with text output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **(env or {})}
    script = [str(folder / arguments[0]) if cwd else arguments[0], *map(str, arguments[1:])]
    return subprocess.run(
        [sys.executable, *python, *script],
        cwd=cwd or folder,
        env=environment,
        capture_output=True,
        text=True,
        **kwargs,
    )
