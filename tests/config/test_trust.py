"""What a checkpoint names writes nowhere but in its run folder, reads no variable, and speaks to
nobody, without the user's word: on the command line, or in a config in the project's folder."""

import argparse
import json
import re
import shlex
import sys
import types

import pytest

import tiny
from machinery import secrets
from machinery.checkpoints import file as checkpoint
from machinery.config import installed, trust
from machinery.config.kinds import KINDS
from machinery.errors import CheckpointError, ConfigError
from machinery.launch import read_run
from parse_config import ConfigParser

TRACKER = {"type": "examples.trackers.MLflow", "args": {"uri": "http://me:s3cr3t@elsewhere"}}
MASKED = {"type": "examples.trackers.MLflow", "args": {"uri": "http://me:***@elsewhere"}}
ALL = json.dumps([TRACKER])


@pytest.fixture(autouse=True)
def project(monkeypatch, tmp_path):
    """A folder of a project without a config."""
    monkeypatch.setattr(secrets, "_taken", {})
    monkeypatch.setenv("TINY_KEY", "a key of the machine")
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.setattr(trust, "ROOT", folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """A finished epoch."""
    return tiny.train(tiny.settings(tmp_path / "runs", trainer__epochs=1)).checkpoint_dir


def naming(run, section, **values):
    """Let the checkpoints of a run name something."""
    for path in run.glob("*.pth"):
        state = checkpoint.load(path)
        state["config"][section] = {**state["config"][section], **values}
        checkpoint.save(state, path)


def test_trackers_of_a_checkpoint_are_not_used_without_a_word(run, project):
    naming(run, "trainer", trackers=[MASKED], epochs=2)
    with pytest.raises(ConfigError, match="may send what is trained anywhere") as caught:
        tiny.command_line("-r", run)
    with pytest.raises(ConfigError, match="may send what is trained anywhere"):
        tiny.command_line("-r", run, "--check")
    said, without = re.findall(r"(--set .*)", str(caught.value))
    assert tiny.command_line("-r", run, *shlex.split(without))["trainer"]["trackers"] == []
    with pytest.raises(ConfigError, match="its secret is kept in no record"):
        tiny.command_line("-r", run, *shlex.split(said))
    words = shlex.split(said.replace("***", "s3cr3t"))
    assert tiny.command_line("-r", run, *words)["trainer"]["trackers"] == [TRACKER]
    (project / "own.json").write_text(json.dumps({"trainer": {"trackers": ["other", TRACKER]}}))
    (project / "no config.json").write_text("[")
    # With its password, which no record has.
    assert tiny.command_line("-r", run)["trainer"]["trackers"] == [TRACKER]
    tiny.command_line("-r", run, *shlex.split(without))


@pytest.mark.parametrize(
    "other",
    [{"args": {"uri": "http://me:***@other"}}, {"args": {}}, {"type": "examples.trackers.WandB"}],
)
def test_another_tracker_is_not_the_users(run, project, other):
    naming(run, "trainer", trackers=[{**MASKED, **other}], epochs=2)
    (project / "own.json").write_text(json.dumps({"trainer": {"trackers": [TRACKER]}}))
    with pytest.raises(ConfigError, match="may send what is trained anywhere"):
        tiny.command_line("-r", run)


def test_an_evaluation_sends_nothing_and_wants_no_word(run):
    naming(run, "trainer", trackers=[MASKED])
    naming(run, "data_loader", args={"root": "${TINY_KEY}"})
    checked, _ = read_run(run)  # which has no data
    assert checked.values["trainer"]["trackers"] == [MASKED]


@pytest.mark.parametrize(
    "value, error, why",
    [
        ("x/${TINY_KEY}", ConfigError, "it takes TINY_KEY from the environment"),
        ("http://elsewhere/${TINY_KEY}", ConfigError, "it takes TINY_KEY from the environment"),
        ("https://elsewhere/data.tar", CheckpointError, "is an address"),
        ("sqlite:////elsewhere/x.db", CheckpointError, "is an address"),
    ],
)
def test_what_reaches_out_needs_a_word(run, project, value, error, why):
    naming(run, "data_loader", args={"root": value})
    for words in (["-r", run], ["-r", run, "--check"]):
        with pytest.raises(error, match=re.escape(why)) as caught:
            tiny.command_line(*words)
    (said,) = re.findall(r"say so: (--set .*)", str(caught.value))
    assert tiny.command_line("-r", run, *shlex.split(said))["data_loader"]["args"]["root"] == value
    own = {"data_loader": {"args": {"other": value}}}
    (project / "own.json").write_text(json.dumps(own))
    with pytest.raises(error, match=re.escape(why)):
        tiny.command_line("-r", run)
    own["data_loader"]["args"]["root"] = value
    (project / "own.json").write_text(json.dumps(own))
    tiny.command_line("-r", run)


def test_starting_weights_that_are_gone_may_be_left_out(run, tmp_path):
    naming(run, "arch", args={"weights": str(tmp_path / "gone.pth")})
    with pytest.raises(CheckpointError, match=r"leave it out: --set arch\.args\.weights=null"):
        tiny.command_line("-r", run, "--set", "trainer.epochs=2")


def test_a_folder_outside_is_read_and_gets_no_download(run, tmp_path):
    naming(run, "data_loader", args={"root": str(tmp_path)})
    tiny.command_line("-r", run)
    naming(run, "data_loader", args={"root": str(tmp_path), "download": True})
    with pytest.raises(CheckpointError, match=r"data_loader.args.root: .* is outside the project"):
        tiny.command_line("-r", run)
    tiny.command_line("-r", run, "--set", "data_loader.args.download=false")


@pytest.mark.parametrize("path", ["~/elsewhere", "..\\..\\elsewhere", "~\\elsewhere"])
def test_paths_that_lead_out_in_another_way(run, tmp_path, path):
    naming(run, "data_loader", args={"root": path, "download": True})
    with pytest.raises(CheckpointError, match=r"data_loader.args.root: .* is outside the project"):
        tiny.command_line("-r", run)


def test_a_checkpoint_says_not_where_a_new_run_goes(run, tmp_path):
    new = tmp_path / "new.json"
    new.write_text(json.dumps({"name": "New"}))
    with pytest.raises(CheckpointError, match=r"trainer.save_dir: .* is outside the project"):
        tiny.command_line("-c", new, "-r", run, partial=True)
    save_dir = f"trainer.save_dir={tmp_path / 'mine'}"
    parser = tiny.command_line("-c", new, "-r", run, "--set", save_dir, partial=True)
    assert parser.where("name").startswith(f"{new}:1:")


def test_the_command_that_goes_on_has_the_words(tmp_path, monkeypatch, capfd):
    """It is typed as it is shown, in the project's folder that has not the config."""

    class Rooted(tiny.TinyLoader):
        def __init__(self, root, **options):
            assert root == "a key of the machine/x"
            super().__init__(**options)

    monkeypatch.setattr(tiny, "Rooted", Rooted, raising=False)
    loader = {"type": "Rooted", "args": {"root": "${TINY_KEY}/x"}}
    tracker = {"type": "trainer.trackers.Own"}
    config = tiny.settings(
        tmp_path / "runs",
        data_loader=loader,
        trainer__trackers=[tracker],
        trainer__epochs=1,
        trainer__verbosity=1,
    )
    tiny.train(config)
    told = capfd.readouterr().out
    (test,) = re.findall(r"test: +python \S+ (.*)", told)
    (go_on,) = re.findall(r"continue: +python \S+ (.*)", told)
    assert "trackers" not in test
    monkeypatch.setattr(sys, "argv", ["test.py", *shlex.split(test)])
    ConfigParser.from_args(argparse.ArgumentParser(), evaluating=True, partial=False)
    assert tiny.train(tiny.command_line(*shlex.split(go_on))).epoch == 2


@pytest.mark.parametrize("leaves", ["raise SystemExit(3)", "raise RuntimeError", "1 / 0"])
def test_a_hint_survives_the_packages_that_it_looks_into(tmp_path, monkeypatch, leaves):
    (tmp_path / "leaving.py").write_text(leaves)
    monkeypatch.syspath_prepend(tmp_path)
    bare = types.ModuleType("bare")  # find_spec refuses a module without a spec
    monkeypatch.setitem(sys.modules, "bare", bare)
    monkeypatch.setattr(installed, "_WELL_KNOWN", ("leaving", "bare", "torch.nn"))
    wanted = KINDS["loss"].wanted
    assert installed.full_name("L1Loss", wanted) == "torch.nn.L1Loss"
