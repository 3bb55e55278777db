"""What all tools share: they say how they are used, and what is missing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision.datasets  # noqa: F401

from projects import ROOT
from scripts import run


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
