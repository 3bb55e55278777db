"""tools/gpu_check.py on a CPU: it stays alive, and sees what would wait."""

import json
import subprocess
import sys

import pytest
import torch

from machinery.files import ROOT
from machinery.order import seeding
from model.loss import cross_entropy
from tools import gpu_check
from tools.gpu_checks import rows
from tools.gpu_checks.rows import Row, waits
from tools.gpu_checks.sides import ByHand, Tensors, compared, network, numbers, ours

#: What it has to do without, as on a machine without network.
MISSING = ("torchvision", "torchmetrics", "matplotlib", "PIL", "pandas", "onnx", "scipy", "sklearn")


def run(*words):
    """The tool in a process of its own, without packages that may be missing."""
    code = f"import sys, runpy\nfor name in {MISSING}: sys.modules[name] = None\n"
    code += f"sys.argv = ['gpu_check.py', *{list(map(str, words))}]\n"
    code += "runpy.run_path('tools/gpu_check.py', run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_it_stays_alive_with_few_packages(tmp_path):
    file = tmp_path / "figures.json"
    trace = tmp_path / "trace.json"
    words = ["--only", "memory", "tokens", "trace", "--json", file, "--trace", trace]
    done = run(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    names = [row["name"] for row in found]
    assert names[0].startswith("peak memory") and names[-1] == "waits in a trace of three steps"
    lines = done.stdout.splitlines()
    assert lines[0].endswith("CPU: all is small, and times are not judged")
    assert lines[-2].endswith("<= 0  yes") and max(map(len, lines)) <= 100
    assert "traceEvents" in json.loads(trace.read_text())


def test_each_row_runs():
    """All that the other test leaves out; `.ci/run` runs it."""
    done = run("--only", "waits", "steps", "switches", "images", "killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" yes") == 5 and "NO" not in done.stdout
    assert len(done.stdout.splitlines()) == 21


def linear():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))


def test_what_waits_is_seen(tmp_path):
    class Reading(torch.nn.Module):
        """Reads a value in each step."""

        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x):
            scores = self.inner(x)
            return scores * (1 if scores.sum().item() > -1e9 else 0)

    loader = rows.resident(Tensors(*numbers(64 * 70)), 64)
    assert waits(ours(tmp_path, linear(), loader, cross_entropy)) == 1  # what is logged
    assert waits(ours(tmp_path, linear(), loader, cross_entropy, log_step=10**6)) == 0
    reading = ours(tmp_path, Reading(), loader, cross_entropy, log_step=10**6)
    assert waits(reading) == rows._STEPS


def test_both_sides_train_the_same(tmp_path, monkeypatch):
    """In the order that the template draws; so the comparison is of one and the same work."""
    x, y = numbers(40)
    model = network(linear)
    step = ours(tmp_path, model, rows.resident(Tensors(x, y), 8), cross_entropy)
    for _ in range(5):
        step()
    twin = network(linear)
    order = seeding.permutation(40, 0, "train", "order", 1)
    monkeypatch.setattr(torch, "randperm", lambda n: order)
    by_hand = ByHand(twin, x, y, 8, cross_entropy)
    for _ in range(5):
        by_hand()
    for ours_, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-3, atol=1e-4)


def test_sides_take_turns():
    taken = []
    both = compared(lambda: taken.append("ours"), lambda: taken.append("bare"), 2)
    assert taken[10:18] == ["ours", "ours", "bare", "bare"] * 2 and both.ratio > 0


@pytest.mark.parametrize(
    "row, on_gpu, on_cpu",
    [
        (Row("a", 1.0, "", 1.0), "yes", ""),
        (Row("a", 1.1, "", 1.0), "NO", ""),
        (Row("a", 1.1, "", 1.0, on_gpu=False), "NO", "NO"),
        (Row("a", 1.1, "", least=1.0), "yes", ""),
        (Row("a", 0.9, "", least=1.0), "NO", ""),
        (Row("a", float("nan"), "", 1.0), "NO", ""),
        (Row("a", 1.0, "x/s"), "", ""),
    ],
)
def test_goals(monkeypatch, row, on_gpu, on_cpu):
    assert row.judged() == on_cpu
    monkeypatch.setattr(rows, "device", lambda: torch.device("cuda"))
    assert row.judged() == on_gpu


def test_what_is_not_met_is_told(monkeypatch, capfd):
    bad = Row("a step", 3.0, "us", 2.0, on_gpu=False)
    monkeypatch.setattr(gpu_check, "PARTS", {"bad": lambda folder: iter([bad])})
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    monkeypatch.setattr(gpu_check.children, "leave_at", lambda names: None)
    with pytest.raises(SystemExit, match="not met: a step"):
        gpu_check.main()
    line = capfd.readouterr().out.splitlines()[1]
    assert " ".join(line.split()) == "a step 3 us <= 2 NO"


def test_a_part_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--only", "wait"])
    with pytest.raises(Exception, match="--only: no part wait: waits, steps"):
        gpu_check.main()
