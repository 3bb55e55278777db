"""model_best.pth is the best so far, whatever came between, and a place to resume from."""

import math
from pathlib import Path

import pytest

import tiny
from machinery.checkpoints import file as checkpoint, run_folder
from tiny import best_by_epoch


def test_the_best_that_is_replaced_is_kept_aside(tmp_path):
    from tiny import best_by_epoch

    config = tiny.settings(tmp_path, trainer__epochs=3)
    folder = tiny.train(config, trainer_class=best_by_epoch([3.0, 2.0, 1.0])).checkpoint_dir
    before = (folder / "model_best.pth").read_bytes()
    tiny.build(config, resume=folder / "checkpoint-epoch1.pth")._start()
    assert (folder / "model_best.pth.old").read_bytes() == before
    assert checkpoint.load(folder / "model_best.pth")["epoch"] == 1


def test_a_file_of_another_epoch_is_passed_over(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=2)).checkpoint_dir
    (folder / "checkpoint-epoch9.pth").write_bytes((folder / "checkpoint-epoch1.pth").read_bytes())
    path, _, warnings = run_folder.newest_whole(folder)
    assert (
        path.name == "checkpoint-epoch2.pth"
        and "checkpoint-epoch9.pth is of epoch 1" in warnings[0]
    )


def test_the_best_is_a_place_to_resume_from(tmp_path):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 3.0, 4.0, 4.0][epoch - 1]}

    settings = {"trainer__epochs": 4, "trainer__save_period": 9}
    whole = tiny.train(tiny.settings(tmp_path / "a", **settings), trainer_class=Best)
    killed = tiny.train(tiny.settings(tmp_path / "b", **settings), trainer_class=Best)
    (killed.checkpoint_dir / "checkpoint-epoch4.pth").unlink()
    assert [path.name for path in killed.checkpoint_dir.glob("*.pth")] == ["model_best.pth"]
    resumed = tiny.train(tiny.command_line("-r", killed.checkpoint_dir), trainer_class=Best)
    assert resumed.start_epoch == 3 and resumed.monitor.best_epoch == 2
    assert tiny.digest(resumed.model) == tiny.digest(whole.model)
    assert checkpoint.load(killed.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_an_epoch_s_own_file_goes_before_the_best_of_the_same_epoch(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    assert run_folder.newest_whole(folder)[0].name == "checkpoint-epoch1.pth"
    (folder / "model_best.pth").write_bytes(b"nonsense")
    assert run_folder.newest_whole(folder)[0].name == "checkpoint-epoch1.pth"


def test_best_is_caught_up_after_a_kill_between_the_two_files(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=2)
    trainer = tiny.train(config)
    folder = Path(trainer.checkpoint_dir)
    assert trainer.monitor.best_epoch == 2
    checkpoint.copy(folder / "checkpoint-epoch1.pth", folder / "model_best.pth")
    config["trainer"]["epochs"] = 3
    resumed = tiny.build(config, resume=folder / "checkpoint-epoch2.pth")
    resumed._start()
    assert checkpoint.load(folder / "model_best.pth")["epoch"] == 2


@pytest.mark.parametrize("save_period", [1, 3])
def test_the_best_is_written_whenever_it_improves(tmp_path, save_period):
    seen = []

    class Judged(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 4.0, 4.0, 3.0, 3.5][epoch - 1]}

        def _save_epoch(self, epoch, improved, finished, spoilt):
            super()._save_epoch(epoch, improved, finished, spoilt)
            best = checkpoint.load(self.checkpoint_dir / "model_best.pth")
            seen.append((best["epoch"], best["monitor_best"]))

    config = tiny.settings(tmp_path, trainer__epochs=5, trainer__save_period=save_period)
    trainer = tiny.train(config, trainer_class=Judged)
    assert seen == [(1, 5.0), (2, 4.0), (2, 4.0), (4, 3.0), (4, 3.0)]
    saved = {path.name for path in trainer.checkpoint_dir.glob("checkpoint-*.pth")}
    assert saved == {
        f"checkpoint-epoch{n}.pth" for n in ([1, 2, 3, 4, 5] if save_period == 1 else [3, 5])
    }


def test_continuing_from_the_best_sets_later_files_aside(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=5, trainer__keep_last=2, lr_scheduler=None)
    folder = tiny.train(
        config, trainer_class=best_by_epoch([2.0, 1.0, 3.0, 3.0, 3.0])
    ).checkpoint_dir
    config["trainer"]["epochs"] = 3
    trainer = tiny.train(config, resume=folder / "model_best.pth")
    assert trainer.epoch == 3
    names = {path.name for path in folder.glob("*.pth*")}
    assert names == {
        "checkpoint-epoch3.pth",
        "model_best.pth",
        "checkpoint-epoch4.pth.old",
        "checkpoint-epoch5.pth.old",
    }


@pytest.mark.parametrize("keep_last", [None, 2])
def test_the_best_of_a_way_not_taken_is_no_longer_the_best(tmp_path, keep_last):
    config = tiny.settings(
        tmp_path, trainer__epochs=6, trainer__keep_last=keep_last, trainer__save_period=1
    )
    folder = tiny.train(
        config, trainer_class=best_by_epoch([3.0, 2.0, 4.0, 4.0, 4.0, 1.0])
    ).checkpoint_dir
    resumed = tiny.build(config, resume=folder / "checkpoint-epoch5.pth")
    resumed._start()
    assert resumed.monitor.best_epoch == 2
    if keep_last is None:  # its file is still there
        assert checkpoint.load(folder / "model_best.pth")["epoch"] == 2
    else:
        assert not (folder / "model_best.pth").exists() and (folder / "model_best.pth.old").exists()


def test_the_best_that_is_named_at_the_end_is_the_file_s(tmp_path, capfd):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 4.0, 3.0][epoch - 1]}

    trainer = tiny.train(tiny.settings(tmp_path, trainer__verbosity=1), trainer_class=Best)
    first = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    capfd.readouterr()
    tiny.train(tiny.command_line("-r", first, "--set", "trainer.epochs=2"), trainer_class=Best)
    told = capfd.readouterr().out
    assert (
        "best val_loss" not in told
        and "checkpoint-epoch2.pth" in told.split("test:")[1].splitlines()[0]
    )


PLATEAU = {"type": "ReduceLROnPlateau", "args": {"patience": 0, "factor": 0.5}}
JUDGED_ANEW = {
    "monitor": {"trainer__monitor": "min loss"},
    "nothing is monitored": {"trainer__monitor": "off", "trainer__early_stop": None},
    "validation data": {"valid_data_loader": {"type": "TinyLoader", "args": {"n": 30}}},
}
AS_BEFORE = {
    "nothing": {},
    "batches": {"data_loader__args": {"validation_split": 0.2, "num_workers": 1}},
    "another metric": {"metrics": ["accuracy"]},
    "an argument of the data": {"data_loader__args": {"validation_split": 0.2, "training": True}},
}


MONITORS = [
    ("max val_accuracy", "off"),
    ("max val_accuracy", "min val_loss"),
    ("min val_loss", "max val_accuracy"),
]


@pytest.mark.parametrize("before, after", MONITORS)
def test_a_run_goes_on_judged_by_a_metric_or_without_one(tmp_path, before, after):
    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__monitor=before)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    now = tiny.settings(tmp_path, trainer__epochs=2, trainer__monitor=after)
    resumed = tiny.build(now, resume=path)
    resumed.restore()
    assert resumed.monitor.best_epoch == 0 and resumed.monitor.bad_epochs == 0


@pytest.mark.parametrize("changed", [*JUDGED_ANEW, *AS_BEFORE])
def test_what_is_judged_otherwise_is_not_compared_with_the_old_best(tmp_path, changed):
    before = {
        "lr_scheduler": PLATEAU,
        "data_loader__args": {"validation_split": 0.2},
        "trainer__epochs": 2,
        "trainer__early_stop": 9,
    }
    trainer = tiny.train(tiny.settings(tmp_path, **before), trainer_class=best_by_epoch([0.1, 0.2]))
    assert trainer.lr_scheduler.best == 0.1 and trainer.monitor.bad_epochs == 1
    now = {**before, **JUDGED_ANEW.get(changed, {}), **AS_BEFORE.get(changed, {})}
    resumed = tiny.build(
        tiny.settings(tmp_path, **now), resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    )
    resumed.restore()
    plateau = resumed.lr_scheduler
    if changed in JUDGED_ANEW:
        assert plateau.best == math.inf and plateau.num_bad_epochs == 0
        assert resumed.monitor.best_epoch == 0 and resumed.monitor.bad_epochs == 0
    else:
        assert plateau.best == 0.1 and resumed.monitor.best_epoch == 1
        assert resumed.monitor.bad_epochs == 1
    assert plateau.optimizer.param_groups[0]["lr"] == trainer.optimizer.param_groups[0]["lr"]
