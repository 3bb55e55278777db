"""Copies of the template for the tests that run its commands, and the commands themselves."""

import atexit
import compileall
import functools
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
_COMPILED = shutil.ignore_patterns("__pycache__")


def copy_template(folder, parts=SHARED + OWN):
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        source = ROOT / part
        if not source.is_dir():
            shutil.copy(source, folder / part)
        elif part in SHARED:
            shutil.copytree(_compiled(part), folder / part)
        else:
            shutil.copytree(source, folder / part, ignore=_COMPILED)
    return folder


@functools.cache
def _compiled(part):
    """A copy of what no test edits, compiled, so that no command has to do it."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    shutil.copytree(ROOT / part, place / part, ignore=_COMPILED)
    compileall.compile_dir(place / part, quiet=2)
    return place / part


def script(folder, words, cwd=None, env=None):
    """Run a script of a project, or code of a test, in this process, which has torch already."""
    own = {
        name.removesuffix(".py")
        for name in (*SHARED, "train", "test", "data_loader", "model", "trainer")
    }
    own |= {"examples", "tools"}
    for name in [name for name in sys.modules if name.split(".")[0] in own]:
        del sys.modules[name]
    os.chdir(cwd or folder)
    sys.path.insert(0, str(folder))
    sys.argv, tempfile.tempdir = list(words), str(folder.parent)
    if env is not None:
        os.environ.update(env)
        tempfile.tempdir = None  # where the environment says
    if words[0] == "-c":
        exec(words[1], {"__name__": "__main__"})
    else:
        runpy.run_path(words[0], run_name="__main__")


def _to_its_end(folder, words, cwd, env):
    """Run a script, and what it wants to be done at the end of its process."""
    atexit._clear()
    try:
        script(folder, words, cwd, env)
    finally:
        atexit._run_exitfuncs()


def quick(folder, *arguments, cwd=None, env=None):
    """Like `command`, by a fork, without a new interpreter that imports torch."""
    words = list(map(str, arguments))
    if cwd is not None:
        words[0] = str(folder / words[0])
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("stdout.txt", "stderr.txt")]
        given = (folder, words, cwd, env)
        process = forked.start(_to_its_end, *given, output=files[0], errors=files[1])
        code = forked.finish(process)
        said = [file.read_text() for file in files]
    return subprocess.CompletedProcess(words, code, *said)


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
