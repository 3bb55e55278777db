"""Two launchers that are two nodes of a job, as a scheduler starts them; one of them is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from machinery.files import ROOT


def node(folder, number, port, epochs):
    """A launcher, which is told by variables alone."""
    variables = {
        "PET_NNODES": "2",
        "PET_NODE_RANK": str(number),
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
    }
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    return subprocess.Popen(
        [*launcher, *words(folder, epochs)],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def words(folder, epochs):
    settings = [f"trainer.save_dir={folder}", f"trainer.epochs={epochs}", "trainer.timeout=30"]
    options = [word for setting in settings for word in ("--set", setting)]
    return ["train.py", "-c", "config.json", "--run_id", "job", "-r", "auto", *options]


@pytest.mark.soak
def test_a_node_is_lost_and_the_other_goes_on_alone(tmp_path):
    port = 29000 + os.getpid() % 900
    nodes = [node(tmp_path, number, port, 300) for number in (0, 1)]
    run = tmp_path / "models" / "Digits_LeNet" / "job"
    while not any(run.glob("checkpoint-epoch2.pth")):
        assert all(each.poll() is None for each in nodes)
        time.sleep(0.1)
    nodes[1].send_signal(signal.SIGKILL)  # its process ends with it
    said, _ = nodes[0].communicate(timeout=120)
    assert nodes[0].returncode == 1, said
    nodes[1].communicate()
    alone = [sys.executable, *words(tmp_path, 5)]
    before = json.loads((run / "status.json").read_text())
    epochs = max(before["epoch"] + 1, 5)
    alone[-3] = f"trainer.epochs={epochs}"
    done = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "finished" and status["epoch"] == epochs
