"""What may be another when a run goes on, what that changes, and what is refused."""

import pytest

import tiny
from machinery.errors import ConfigError
from parse_config import ConfigParser
from tiny import ADAM, changed_config, newest


def test_rates_that_cannot_be_another_are_refused(tmp_path):
    cosine = {"type": "CosineAnnealingLR", "args": {"T_max": 5, "eta_min": 0.001}}
    for optimizer, scheduler in (("Adam", cosine), ("Rprop", None)):
        config = tiny.settings(tmp_path / optimizer, trainer__epochs=1, lr_scheduler=scheduler)
        config["optimizer"] = {"type": optimizer, "args": {"lr": 0.01}}
        folder = tiny.train(config).checkpoint_dir
        parser = tiny.command_line(
            "-r", folder, "--set", "optimizer.args.lr=0.02", "--set", "trainer.epochs=2"
        )
        with pytest.raises(ConfigError, match="cannot"):
            tiny.build(parser).train()


def test_batch_size_may_change_between_epochs(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    path = newest(tiny.train(config).checkpoint_dir)
    config = tiny.settings(tmp_path, data_loader__args={"batch_size": 5})
    assert tiny.train(config, resume=path).start_epoch == 2


def test_what_is_changed_on_resume_is_used(tmp_path):
    optimizer = {"type": "Adam", "args": {"lr": 0.01}}
    config = tiny.settings(tmp_path, trainer__epochs=1, optimizer=optimizer)
    folder = tiny.train(config).checkpoint_dir
    parser = tiny.command_line("-r", folder, "--set", "optimizer.args.betas=[0.5,0.6]")
    trainer = tiny.build(parser)
    trainer.restore()
    assert [group["betas"] for group in trainer.optimizer.param_groups] == [(0.5, 0.6)]


@pytest.mark.parametrize(
    "scheduler, change, message",
    [
        (
            {"type": "MultiStepLR", "args": {"milestones": [2]}},
            "lr_scheduler.args.milestones=[1]",
            "milestones of a running",
        ),
        (
            {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "interval": "step"},
            "optimizer.args.lr=0.5",
            "the learning rate follows OneCycleLR",
        ),
    ],
)
def test_what_cannot_be_changed_on_resume_is_refused(tmp_path, scheduler, change, message):
    folder = tiny.train(
        tiny.settings(tmp_path, trainer__epochs=1, lr_scheduler=scheduler)
    ).checkpoint_dir
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with pytest.raises(ConfigError, match=message):
        tiny.build(tiny.command_line("-r", folder, "--set", change)).train()
    assert {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


def test_another_monitor_starts_to_judge_afresh(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    folder = tiny.train(config).checkpoint_dir
    trainer = tiny.build(tiny.command_line("-r", folder, "--set", "trainer.monitor=max val_loss"))
    trainer.restore()
    assert trainer.monitor.best_epoch == 0


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "LinearLR", "args": {"start_factor": 0.1, "total_iters": 4}},
        {"type": "ConstantLR", "args": {"factor": 0.5, "total_iters": 3}},
        {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}},
        {"type": "CosineAnnealingLR", "args": {"T_max": 6}},
        {"type": "PolynomialLR", "args": {"total_iters": 5}},
        {"type": "CosineAnnealingWarmRestarts", "args": {"T_0": 3}},
        None,
    ],
)
def test_another_learning_rate_keeps_the_schedule_where_it_is(tmp_path, scheduler):
    def rates(lr, folder):
        optimizer = {"type": "Adam", "args": {"lr": lr}}
        trainer = tiny.init_optimizer_from(
            ConfigParser(
                tiny.settings(
                    folder, trainer__epochs=6, optimizer=optimizer, lr_scheduler=scheduler
                )
            )
        )
        trainer.train()
        return [float(row[-1]) for row in tiny.rows(trainer)[1:]]

    other = {"optimizer": {"type": "Adam", "args": {"lr": 0.002}}, "lr_scheduler": scheduler}
    trainer = changed_config(tmp_path, {"optimizer": ADAM, "lr_scheduler": scheduler}, other)
    trainer.train()
    wanted = rates(0.01, tmp_path / "a")[:2] + rates(0.002, tmp_path / "b")[2:]
    assert [float(row[-1]) for row in tiny.rows(trainer)[1:]] == pytest.approx(wanted, rel=1e-6)


def test_a_value_that_is_the_default_changes_nothing(tmp_path):
    scheduler = {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}}
    before = {"optimizer": {"type": "Adam", "args": {"lr": 0.001}}, "lr_scheduler": scheduler}
    trainer = changed_config(
        tmp_path, before, {"optimizer": {"type": "Adam"}, "lr_scheduler": scheduler}
    )
    trainer.restore()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.00025


def test_another_length_of_epochs_says_where_the_data_goes_on(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__len_epoch=4)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    config["trainer"] |= {"epochs": 2, "len_epoch": 7}
    tiny.train(config, resume=path)
    assert (
        "4 -> 7 batches in an epoch: epoch 2 begins at batch 7 of the data, not at 4"
        in capfd.readouterr().out
    )
