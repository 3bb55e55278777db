"""Several processes as a user starts them: by -d, by torchrun, by a scheduler that kills and starts
again."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys

import pytest
import torch

from forked import finish
from launched import launch, started, torchrun
from projects import ROOT, command, copy_template

SHORT = ["--set", "trainer.len_epoch=6", "--set", "trainer.tensorboard=false"]
CRASH = """
import os
import pathlib

import train
import trainer.trainer
from utils import distributed

after = trainer.trainer.Trainer._after_update


def crash(self, batches):
    after(self, batches)
    flag = pathlib.Path("crashed")
    if self.epoch == 2 and self.step == 3 and distributed.rank() == 1 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), 9)


trainer.trainer.Trainer._after_update = crash
train.command()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_template(tmp_path_factory.mktemp("launch") / "project")


def run_of(project, name):
    return project / "saved" / "models" / "Digits_LeNet" / name


def weights(project, name, file="checkpoint-epoch3.pth"):
    return torch.load(run_of(project, name) / file, weights_only=True)["state_dict"]


def by_the_page(name):
    """The words of the command of the page, for a run of this name."""
    page = (ROOT / "docs" / "commands.md").read_text()
    (line,) = re.findall(r"^python (train\.py .* -d 0,1)(?: +#.*)?$", page, re.M)
    return (*line.split(), "--run_id", name, *SHORT, "--set", "trainer.epochs=3")


@pytest.fixture(scope="module")
def unbroken(project):
    result = launch(project, *by_the_page("unbroken"))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_command_of_the_page_in_new_processes(project, unbroken):
    result = command(project, *by_the_page("new"))
    assert result.returncode == 0, result.stderr
    expected = weights(project, "unbroken")
    for name, value in weights(project, "new").items():
        assert torch.equal(value, expected[name])


def test_d_trains_on_several(project, unbroken):
    run = run_of(project, "unbroken")
    status, (environment,) = (
        json.loads((run / f"{name}.json").read_text()) for name in ("status", "environment")
    )
    assert (status["state"], status["exit_code"], environment["processes"]) == ("finished", 0, 2)
    assert unbroken.count("run folder: ") == unbroken.count("\nepoch ") == 1
    assert (
        len(
            [
                line
                for line in unbroken.splitlines()
                if line.startswith("    ") and line.split()[0] in "123"
            ]
        )
        == 3
    )
    assert (
        len((project / "saved/log/Digits_LeNet/unbroken/metrics.csv").read_text().splitlines()) == 4
    )


def test_several_evaluate_what_one_evaluates(project, unbroken):
    results = []
    for devices in (["-d", "0,1,2"], []):
        ended = launch(project, "test.py", "-r", run_of(project, "unbroken"), *devices)
        assert ended.returncode == 0, ended.stderr
        results.append(
            json.loads((run_of(project, "unbroken") / "test.json").read_text())["results"][0]
        )
    several, one = results
    assert several["samples"] == one["samples"] == 1000
    assert several["metrics"]["accuracy"] == one["metrics"]["accuracy"]
    assert several["metrics"]["loss"] == pytest.approx(one["metrics"]["loss"], rel=1e-6)


def test_mistakes_are_told_once_with_their_exit_code(project):
    result = launch(
        project, "train.py", "-c", "config.json", "-d", "0,1", "--set", "trainer.monitor=min nix"
    )
    assert result.returncode == 2 and result.stderr.count("no metric is called 'nix'") == 1
    assert len(result.stderr.splitlines()) == 1
    result = launch(
        project, "train.py", "-c", "config.json", "-d", "0,1,2", "--set", "trainer.epoch=1"
    )
    assert result.returncode == 2 and result.stderr.startswith(
        "error: command line"
    )  # before torchrun is started


def test_a_check_leaves_nothing(project, unbroken):
    before = sorted(run_of(project, "").iterdir())
    result = launch(
        project,
        "train.py",
        "-c",
        "config.json",
        "-d",
        "0,1",
        "--check",
        "--set",
        "trainer.epochs=3",
    )
    assert result.returncode == 0 and "check passed" in result.stdout
    assert sorted(run_of(project, "").iterdir()) == before


def test_a_scheduler_s_command_starts_goes_on_and_finishes(project, unbroken):
    arguments = ["-c", "config.json", "--run_id", "auto", "-r", "auto", "-d", "0,1", *SHORT]
    for epochs, said in (
        (2, "run folder"),
        (3, "resuming from"),
        (3, "nothing to do (epoch 3 of 3)"),
    ):
        result = launch(project, "train.py", *arguments, "--set", f"trainer.epochs={epochs}")
        assert result.returncode == 0 and said in result.stdout, result.stderr
    expected = weights(project, "unbroken")
    assert all(
        torch.equal(value, expected[name]) for name, value in weights(project, "auto").items()
    )


def test_torchrun_starts_again_what_has_crashed(project, unbroken):
    (project / "crash.py").write_text(CRASH)
    arguments = ["-c", "config.json", "--run_id", "again", "-r", "auto", *SHORT]
    words = ["--standalone", "--nproc_per_node=2", "--max-restarts=1", "crash.py", *arguments]
    said = project / "again.txt"
    assert finish(torchrun(project, [*words, "--set", "trainer.epochs=3"], said)) == 0, (
        said.read_text()
    )
    assert "checkpoint-epoch1.pth" in said.read_text()
    assert (project / "crashed").exists()
    expected = weights(project, "unbroken")
    assert all(
        torch.equal(value, expected[name]) for name, value in weights(project, "again").items()
    )


def test_several_machines_by_the_command_of_the_page(project, unbroken):
    page = (ROOT / "docs" / "processes.md").read_text()
    (line,) = re.findall(r"^torchrun (--nnodes(?:.*\\\n)*.*)$", page, re.M)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    line = (
        line.replace("\\\n", " ").replace("=HOST:29500", f"={endpoint}").replace("node=4", "node=1")
    )
    words = [*shlex.split(line), *SHORT, "--set", "trainer.epochs=3"]
    files = [project / f"machine{number}.txt" for number in range(2)]
    machines = [torchrun(project, words, file) for file in files]
    codes = [finish(machine) for machine in machines]
    said = [file.read_text() for file in files]
    assert codes == [0, 0], said
    assert "".join(said).count("run folder: ") == 1
    expected = weights(project, "unbroken")
    assert all(
        torch.equal(value, expected[name]) for name, value in weights(project, "NAME").items()
    )


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        ("SIGTERM", 143),
        pytest.param("SIGUSR1", 143, marks=pytest.mark.soak),
        ("SIGINT", 130),
        ("SIGKILL", -9),
    ],
)
def test_a_signal_for_the_launcher_reaches_all(project, signum, code):
    arguments = ("-c", "config.json", "-d", "0,1", "--run_id", signum)
    pipe = project / f"{signum}.pipe"
    os.mkfifo(pipe)
    process = started(project, pipe, "train.py", *arguments, "--set", "trainer.epochs=1000")
    with open(pipe) as said:
        for line in said:
            if line.startswith("    2 "):
                os.kill(process.pid, getattr(signal, signum))
                break
        rest = said.read()  # until the last of the processes has ended
    assert finish(process) == code
    status = json.loads((run_of(project, signum) / "status.json").read_text())
    assert status["state"] == "stopped" and status["exit_code"] == (
        130 if signum == "SIGINT" else 143
    )
    assert rest.count("resume: python train.py -r") == 1
    assert list(run_of(project, signum).glob("checkpoint-epoch*.pth"))


@pytest.mark.soak
def test_the_command_that_half_a_launch_is_told_works(project):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    arguments = f"train.py -c config.json --run_id half {shlex.join(SHORT)} --set trainer.epochs=1"
    refused = command(project, *shlex.split(arguments), env={**told, "RANK": "0"})
    assert refused.returncode == 2
    (line,) = re.findall(r"\n  (torchrun .*) train.py …", refused.stderr)
    line = line.replace("torchrun", f"{sys.executable} -m torch.distributed.run")
    environment = {**os.environ, **told, "OMP_NUM_THREADS": "1"}
    options = {"cwd": project, "shell": True, "text": True}
    processes = []
    for rank in "01":
        variables = {**environment, "RANK": rank}
        processes.append(subprocess.Popen(f"{line} {arguments}", env=variables, **options))
    assert [process.wait() for process in processes] == [0, 0]
    environments = json.loads((run_of(project, "half") / "environment.json").read_text())
    assert [each["processes"] for each in environments] == [2]
