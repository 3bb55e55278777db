"""Trackers: what MLflow's own server and Weights & Biases offline have got is what was trained, and
changes nothing."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch.utils.tensorboard

from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.run_folder import newest_whole
from projects import ROOT
from scripts import run

SHORT = {
    "data_loader.args.validation_split": 0.85,
    "trainer.log_step": 3,
    "n_gpu": 0,
    "trainer.epochs": 2,
}


def words(folder, *trackers, **more):
    settings = {
        **SHORT,
        "trainer.save_dir": folder,
        "trainer.trackers": json.dumps(trackers),
        **more,
    }
    return [
        "-c",
        "config.json",
        *(word for k, v in settings.items() for word in ("--set", f"{k}={v}")),
    ]


def weights(folder, name):
    content = checkpoint.load(newest_whole(folder / "models" / "Digits_LeNet" / name)[0])
    return {key: value.numpy().tobytes() for key, value in content["state_dict"].items()}


def rows(folder, name):
    with open(folder / "log" / "Digits_LeNet" / name / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def server(tmp_path):
    """MLflow's server on a free port."""
    pytest.importorskip("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--workers", "1"]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *store,
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert any("startup complete" in line for line in process.stdout)
    yield f"http://127.0.0.1:{port}"
    os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()


def test_mlflow_has_what_was_trained(tmp_path, server):
    tracker = {"type": "examples.trackers.MLflow", "args": {"uri": server}}
    run(tmp_path, "train.py", *words(tmp_path), "--run_id", "plain")
    assert "check passed" in run(tmp_path, "train.py", *words(tmp_path, tracker), "--check")
    run(tmp_path, "train.py", *words(tmp_path, tracker), "--run_id", "a", code=143, stop_at=2)
    same = f"trainer.trackers={json.dumps([tracker])}"
    more = ["--set", "trainer.keep_last=2", "--set", same]
    run(tmp_path, "train.py", "-r", tmp_path / "models" / "Digits_LeNet" / "a", *more)
    assert weights(tmp_path, "a") == weights(tmp_path, "plain")
    from mlflow import MlflowClient

    client = MlflowClient(server)
    (experiment,) = [each for each in client.search_experiments() if each.name == "Digits_LeNet"]
    (there,) = client.search_runs([experiment.experiment_id])
    assert (there.info.run_name, there.info.status) == ("a", "FINISHED")
    assert (
        there.data.tags["trainer.keep_last"] == "2" and "optimizer.args.lr" not in there.data.tags
    )
    assert (
        there.data.params["optimizer.args.lr"] == "0.002"
        and there.data.params["trainer.epochs"] == "2"
    )
    for name in ("val_loss", "accuracy", "lr"):
        history = client.get_metric_history(there.info.run_id, f"epoch/{name}")
        assert [(each.step, each.value) for each in history] == [
            (int(row["epoch"]), float(row[name])) for row in rows(tmp_path, "a")
        ]
    steps = [each.step for each in client.get_metric_history(there.info.run_id, "loss/train")]
    assert steps == sorted(set(steps)) and steps[0] == 3


def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb")
    tracker = {
        "type": "examples.trackers.WandB",
        "args": {"mode": "offline", "project": "a/b: 50%"},
    }
    run(tmp_path, "train.py", *words(tmp_path), "--run_id", "plain")
    run(tmp_path, "train.py", *words(tmp_path, tracker), "--run_id", "a")
    # Another of its name is another run.
    printed = run(
        tmp_path,
        "train.py",
        *words(tmp_path / "two", tracker),
        "--run_id",
        "a",
        code=143,
        stop_at=2,
    )
    notes = [
        tmp_path / place / "models" / "Digits_LeNet" / "a" / "wandb.txt" for place in ("", "two")
    ]
    assert len({note.read_text() for note in notes}) == 2 and "WandB is off" not in printed
    assert weights(tmp_path, "a") == weights(tmp_path, "plain")
    (file,) = (tmp_path / "log" / "Digits_LeNet" / "a" / "wandb").glob("offline-run-*/*.wandb")
    content = file.read_bytes()
    assert b"val_loss" in content and b"samples/s" in content and b"validation_split" in content


def test_errors_are_told_as_ever_beside_weights_and_biases(tmp_path, monkeypatch):
    """It sets a hook of its own, that shows the traceback of each."""
    from examples.trackers import WandB

    given = {}

    def init(**settings):
        given.update(settings)
        sys.excepthook = print
        return SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda numbers: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=dict))
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    folders = SimpleNamespace(folder=tmp_path, log_dir=tmp_path)
    config = SimpleNamespace(
        run=folders, log_dir=tmp_path, settings=SimpleNamespace(name="a: 50%"), snapshot=dict
    )
    for _ in range(2):
        WandB(config).log({"loss": 1.0}, 1)
    assert sys.excepthook is sys.__excepthook__ and given["project"] == "a- 50-"
    assert given["id"] == (tmp_path / "wandb.txt").read_text() and len(given["id"]) == 16


def test_names_that_mlflow_refuses():
    from examples.trackers import _named

    assert [_named(name) for name in ("acc@1", "top 1 (%)", "epoch/val_loss")] == [
        "acc_1",
        "top 1 ___",
        "epoch/val_loss",
    ]


def test_a_tracker_that_fails_warns_once(tmp_path):
    """Nobody listens there, or it is no database; other trackers and the training go on."""
    pytest.importorskip("mlflow")
    broken = [
        {
            "type": "examples.trackers.MLflow",
            "args": {"uri": "sqlite:////nowhere/at/all.db"},
            "name": "broken",
        }
    ]
    printed = run(tmp_path, "train.py", *words(tmp_path, *broken), "--run_id", "a")
    assert len(re.findall("MLflow is off from here on, training goes on", printed)) == 1
    assert len(rows(tmp_path, "a")) == 2


@pytest.mark.parametrize(
    "setting, told",
    [
        ('["examples.trackers.MLflw"]', "did you mean 'MLflow'"),
        ('["subprocess.Popen"]', "a tracker is the project's own"),
        ('["examples.trackers.os"]', "no tracker 'os'"),
        ('["model.loss.nll_loss"]', "no tracker 'nll_loss'"),
        ('[{"type": "examples.trackers.MLflow", "args": []}]', "no component"),
        ('[{"type": "examples.trackers.MLflow", "args": {"url": "x"}}]', "no argument 'url'"),
        ('[{"type": "examples.trackers.MLflow", "args": {"uri": 3}}]', "uri"),
        ('["examples.trackers.MLflow", "examples.trackers.MLflow"]', "there are two 'MLflow'"),
        ('"examples.trackers.MLflow"', "trackers"),
        ("[3]", "trackers"),
        ("[{}]", "no component"),
    ],
)
def test_mistakes_are_told_before_the_run(tmp_path, setting, told):
    printed = run(tmp_path, "train.py", *words(tmp_path, **{"trainer.trackers": setting}), code=2)
    assert told in printed and not (tmp_path / "models").exists()


def test_a_config_calls_no_program(tmp_path):
    """A function called main would read the command line, and do whatever it is for."""
    pytest.importorskip("examples.char_lm.generate")
    arch = '{"type": "examples.char_lm.generate.main", "args": {}}'
    printed = run(tmp_path, "train.py", *words(tmp_path, arch=arch), "--check", code=2)
    assert "has no model 'main'" in printed


def test_the_same_run_goes_on_with_another_tracker(tmp_path):
    run(tmp_path, "train.py", *words(tmp_path), "--run_id", "a", code=143, stop_at=2)
    tracker = {"type": "examples.trackers.MLflow", "args": {"uri": f"sqlite:///{tmp_path}/x.db"}}
    printed = run(tmp_path, "train.py", *words(tmp_path, tracker), "-r", "auto")
    assert "resuming from" in printed


def test_a_fingerprint_is_of_the_data_alone(tmp_path):
    from data_loader.data_loaders import DigitsDataLoader
    from machinery.checkpoints.environment import fingerprint

    digits = DigitsDataLoader(batch_size=64, shift=2.0, validation_split=0.1).dataset
    same = DigitsDataLoader(batch_size=7, shuffle=False, rotate=5.0, num_workers=0).dataset
    other = DigitsDataLoader(training=False).dataset
    assert (
        fingerprint(digits)
        == fingerprint(same)
        == fingerprint(digits.evaluation_view())
        != fingerprint(other)
    )
    view = digits.evaluation_view()
    view.images = view.images.clone()
    view.images[0, 0, 14, 14] += 1e-3
    shorter, elsewhere = (
        torch.utils.data.Subset(digits, indices) for indices in (range(3999), [*range(1, 4000)])
    )
    found = [fingerprint(each) for each in (digits, view, shorter, elsewhere, None, iter([]))]
    assert len(set(found[:4])) == 4 and found[4:] == [None, None]

    class Opened(torch.utils.data.Dataset):
        """Reads a file that it opens when it is first asked: one for each worker."""

        def __init__(self, names):
            self.names, self.scale, self.file = names, torch.tensor(2.0), None

        def __len__(self):
            return len(self.names)

        def __getitem__(self, index):
            raise AssertionError("nobody is to read it")

    names = [(f"{tmp_path}/cat/{i}.png", 1) for i in range(50)]
    moved = [(f"/other/cat/{i}.png", 1) for i in range(50)]
    state = torch.get_rng_state()
    a, b, c = (fingerprint(Opened(each)) for each in (names, moved, names[::-1]))
    assert a == b != c and a is not None and torch.equal(torch.get_rng_state(), state)


def test_other_data_is_told_when_a_run_goes_on(tmp_path):
    run(tmp_path, "train.py", *words(tmp_path, **{"trainer.epochs": 1}), "--run_id", "a")
    folder = tmp_path / "models" / "Digits_LeNet" / "a"
    told = json.loads((folder / "environment.json").read_text())[-1]["data"]
    assert re.fullmatch(r"[0-9a-f]{16}", told)
    state = checkpoint.load(folder / "checkpoint-epoch1.pth")
    state["environment"]["data"] = "0" * 16
    checkpoint.save(state, folder / "checkpoint-epoch1.pth")
    printed = run(tmp_path, "train.py", "-r", folder, "--set", "trainer.epochs=2")
    assert f"the continued run may differ: data {'0' * 16} -> {told}" in printed


def test_the_diff_of_a_dirty_checkout_is_kept(tmp_path, monkeypatch):
    from machinery.checkpoints import environment

    def git(*given):
        who = ["-c", "user.name=me", "-c", "user.email=me@there"]
        subprocess.run(["git", *who, *given], cwd=tmp_path, check=True, capture_output=True)

    files = {
        "a.py": b"x = 1\n\n\ny = 2\n \n",
        "z.bin": bytes(range(256)),
        "c.txt": "Größe\n".encode("latin-1"),
    }
    files["dos.txt"], files["mac.txt"] = b"one\r\ntwo\r\n", b"one\rtwo\n"
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    git("init")
    settings = {
        "color.ui": "always",
        "diff.noprefix": "true",
        "diff.suppressBlankEmpty": "true",
        "diff.context": "0",
    }
    for name, value in settings.items():
        git("config", name, value)
    git("config", "diff.external", "/bin/false")
    git("config", "core.autocrlf", "false")
    git("add", "-A")
    git("commit", "-m", "one")
    git("config", "diff.orderFile", "nothing")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    for name, value in (
        ("GIT_DIFF_OPTS", "-u0"),
        ("GIT_DIR", str(ROOT / ".git")),
    ):  # as a hook has it
        monkeypatch.setenv(name, value)
    environment.keep_changes(tmp_path)
    assert not [*tmp_path.glob("changes-*.diff")]
    changed = {
        "a.py": b"x = 3\n\n\ny = 2\n \n \n",
        "z.bin": bytes(range(255, -1, -1)),
        "c.txt": "Größen\n".encode("latin-1"),
    }
    changed |= {"dos.txt": b"one\r\nthree\r\n", "mac.txt": b"one\rthree\n"}
    for name, content in changed.items():
        (tmp_path / name).write_bytes(content)
    environment.keep_changes(tmp_path)
    (diff,) = tmp_path.glob("changes-*.diff")
    monkeypatch.delenv("GIT_DIR")
    git("checkout", ".")
    git("apply", diff.name)
    assert {name: (tmp_path / name).read_bytes() for name in files} == changed
