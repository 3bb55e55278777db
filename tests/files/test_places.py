"""What stands in the place of a file that a run writes (a link, a pipe, a folder) is not followed,
not waited for, and not replaced."""

import logging
import os
import shutil

import pytest

import tiny
from logger import results
from machinery.checkpoints import environment
from machinery.errors import StorageError
from machinery.files import replacing
from tools import trained

KINDS = ("link", "link to nothing", "link to a folder", "pipe", "folder")
#: What a training writes beside its checkpoints, and those.
WRITTEN = (
    "config.json",
    "environment.json",
    "status.json",
    "checkpoint-epoch1.pth",
    "checkpoint-epoch2.pth",
    "checkpoint-epoch2-step3.pth",
    "checkpoint-epoch2.pth.old",
    "model_best.pth",
    "model_best.pth.old",
    "changes-0123456789ab.diff",
    ".lock",
)
#: What it writes into its logs, where trouble ends no training.
LOGS = ("metrics.csv", "metrics.csv.old", "info.log", "train", "valid")


def put(kind, path, elsewhere):
    """Let something stand at a path; what it leads to is in a folder elsewhere."""
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "mine.txt").write_text("mine")
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        name = {"link": "mine.txt", "link to nothing": "nothing", "link to a folder": ""}[kind]
        path.symlink_to(elsewhere / name)


def is_untouched(kind, path, elsewhere):
    """Whether all is as it was put."""
    left = {each.name: each.read_text() for each in elsewhere.iterdir()}
    if kind == "pipe":
        there = path.is_fifo()
    elif kind == "folder":
        there = path.is_dir() and not path.is_symlink()
    else:
        there = path.is_symlink()
    return there and left == {"mine.txt": "mine"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished epoch, and what its folders hold."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, tiny.train(tiny.settings(folder, trainer__epochs=1, name="Tiny")).checkpoint_dir


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished[0], tmp_path / "runs")
    return tmp_path / "runs" / "models" / "Tiny" / finished[1].name


def go_on(run, **changes):
    """Continue a run from a copy of its checkpoint that nothing stands in the place of."""
    path = run / "checkpoint-epoch1.pth"
    if path.is_symlink() or not path.is_file():
        path = run / "model_best.pth"
    return tiny.train(tiny.settings(run.parent.parent.parent, **changes), resume=path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITTEN)
def test_what_stands_in_a_run_folder_is_not_written_to(run, tmp_path, name, kind):
    before = {path.name for path in run.iterdir()}
    put(kind, run / name, tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"is a link, and|is not a regular file") as caught:
        go_on(run, trainer__epochs=2)
    assert f"{run / name} " in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 6 and is_untouched(kind, run / name, tmp_path / "elsewhere")
    assert {path.name for path in run.iterdir()} == before | {name}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGS)
def test_what_stands_among_the_logs_ends_no_training(run, tmp_path, name, kind, capfd):
    log = tmp_path / "runs" / "log" / "Tiny" / run.name
    place = log / name
    if name == "metrics.csv.old":
        (log / "metrics.csv").write_text("no table\nat all\n")
    put(kind, place, tmp_path / "elsewhere")
    settings = {"trainer__epochs": 2, "trainer__tensorboard": True, "trainer__verbosity": 1}
    refused = kind == "link to a folder"
    if refused:
        with pytest.raises(StorageError, match="is a link, and is not written to"):
            go_on(run, **settings)
    else:
        assert go_on(run, **settings).epoch == 2
    told = capfd.readouterr().out
    takes_folders = name in ("train", "valid") and kind == "folder"
    renamed_over = name == "metrics.csv.old" and kind != "folder"
    assert refused or takes_folders or "training goes on" in told or "renamed" in told
    if takes_folders or renamed_over:
        assert (tmp_path / "elsewhere" / "mine.txt").read_text() == "mine"
    else:
        assert is_untouched(kind, place, tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe"])
def test_event_files_are_not_led_elsewhere(run, tmp_path, kind):
    place = tmp_path / "runs" / "log" / "Tiny" / run.name / "train" / "events.out.tfevents.1.x"
    place.parent.mkdir()
    put(kind, place, tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"is a link, and|is not a regular file"):
        go_on(run, trainer__epochs=2, trainer__tensorboard=True)
    assert is_untouched(kind, place, tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["status.json", "model_best.pth", "checkpoint-epoch2.pth"])
def test_what_comes_while_it_trains_is_not_written_to(tmp_path, name, kind):
    class Late(tiny.Trainer):
        def _train_epoch(self, epoch):
            if epoch == 1:
                put(kind, self.checkpoint_dir / name, tmp_path / "elsewhere")
            return super()._train_epoch(epoch)

    config = tiny.settings(tmp_path / "runs", trainer__epochs=2)
    trainer = tiny.build(config, trainer_class=Late)
    with pytest.raises(StorageError, match=r"is a link, and|is not a regular file"):
        trainer.train()
    assert is_untouched(kind, trainer.checkpoint_dir / name, tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_not_written_to_it(tmp_path, kind, caplog):
    put(kind, tmp_path / "test.json", tmp_path / "elsewhere")
    entry = {"checkpoint": "x.pth", "split": "test", "samples": 8, "metrics": {}}
    results.report_result(tmp_path / "test.json", entry, logging.getLogger("test"))
    assert "is a link, and" in caplog.text or "is not a regular file" in caplog.text
    assert is_untouched(kind, tmp_path / "test.json", tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", KINDS)
def test_a_diff_is_not_written_to_it(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(environment, "_git", lambda *words, **variables: b"+ a line\n")
    environment.keep_changes(tmp_path)
    (place,) = tmp_path.glob("changes-*.diff")
    put(kind, place, tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"is a link, and|is not a regular file"):
        environment.keep_changes(tmp_path)
    assert is_untouched(kind, place, tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["w", "wb"])
def test_a_temporary_name_is_not_followed(tmp_path, kind, mode):
    """It can be foretold; whatever has it goes, or is in the way."""
    place = tmp_path / f"x.json.{os.getpid()}.tmp"
    put(kind, place, tmp_path / "elsewhere")
    content = "new" if mode == "w" else b"new"
    try:
        with replacing(tmp_path / "x.json", mode) as file:
            file.write(content)
        assert kind != "folder" and (tmp_path / "x.json").read_text() == "new"
    except StorageError:
        assert kind == "folder" and not (tmp_path / "x.json").exists()
    assert (tmp_path / "elsewhere" / "mine.txt").read_text() == "mine"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine.txt"]


def test_a_folder_beside_the_checkpoint_is_not_led_elsewhere(tmp_path):
    class Config:
        resume = tmp_path / "x.pth"

    run = trained.Trained(None, None, Config(), "epoch1")
    assert trained.folder_of(run, "export/epoch1", None) == tmp_path / "export" / "epoch1"
    shutil.rmtree(tmp_path / "export")
    put("link to a folder", tmp_path / "export", tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="is a link, and is not written to"):
        trained.folder_of(run, "export/epoch1", None)
    given = tmp_path / "export" / "given"
    assert trained.folder_of(run, "export/epoch1", given) == given
