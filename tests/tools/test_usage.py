"""What all tools share: they say how they are used, and what is missing."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision.datasets  # noqa: F401

from projects import ROOT
from scripts import run
from tools import children


@pytest.mark.parametrize(
    "tool", ["runs", "sweep", "tune", "export", "show_data", "predict", "lr_find"]
)
def test_each_says_how_it_is_used(tmp_path, tool):
    if tool == "sweep":
        pytest.importorskip("optuna")
    assert "usage:" in run(tmp_path, f"tools/{tool}.py", "--help")
    text = (ROOT / "tools" / f"{tool}.py").read_text()
    assert f"python tools/{tool}.py" in text.split('"""')[1]
    assert not re.search(
        rf"tools[./]{tool}\b",
        "".join(path.read_text() for path in Path(ROOT / "base").glob("*.py")),
    )


MUCH = "from machinery.telling import *; catch_user_errors(); print('line\\n' * 10**6)"


@pytest.mark.parametrize(
    "words", [["tools/show_config.py", "-c", "config.json"], ["tools/runs.py"], ["-c", MUCH]]
)
def test_who_reads_only_the_first_lines_gets_no_traceback(words):
    reader, writer = os.pipe()
    os.close(reader)  # as `head` does once it has seen enough
    result = subprocess.run(
        [sys.executable, *words], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(("missing", "says"), [("fcntl", "file locks"), ("optuna", "pip install")])
def test_a_system_without_what_a_sweep_needs_is_told(tmp_path, monkeypatch, missing, says):
    monkeypatch.setitem(sys.modules, missing, None)  # forks inherit it
    for name in [name for name in sys.modules if name.startswith("tools.sweep")]:
        monkeypatch.delitem(sys.modules, name)
    told = run(tmp_path, "tools/sweep.py", "--help", code=1)
    assert len(told.splitlines()) == 1 and told.startswith("error: ") and says in told


def test_signals_that_a_system_has_not_are_left_out(monkeypatch):
    ours = signal.getsignal(signal.SIGUSR2)
    children.leave_at(["SIGNEVER", "SIGUSR2"])
    assert signal.getsignal(signal.SIGUSR2) is not ours
    signal.signal(signal.SIGUSR2, ours)


@pytest.mark.parametrize("tool", ["sweep"])
def test_a_missing_package_is_told(tmp_path, tool):
    code = "import sys, runpy; sys.modules.update(dict.fromkeys(('optuna',)))"
    code += (
        f"; sys.argv = ['{tool}', '--help']; runpy.run_path('tools/{tool}.py', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert (
        result.stderr.startswith("error: ")
        and "pip install -r requirements-tools.txt" in result.stderr
    )
