"""tools/lr_find.py: the rate that is suggested is what the training takes."""

import re
from types import SimpleNamespace

import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

import ranks
import tiny
from scripts import run, words


def test_what_is_suggested_is_what_the_rate_comes_from():
    from torch.optim import SGD

    from tools.lr_find import searched

    def found(lr, groups, schedule=None):
        optimizer = SGD([{"params": [torch.zeros(1)], "lr": each} for each in groups], lr=0.5)
        config = {"optimizer": {"args": {"lr": lr}}, "lr_scheduler": schedule}
        return searched(SimpleNamespace(optimizer=optimizer, config=Config(config)))

    class Config(dict):
        config = property(lambda self: self)

    assert found(0.1, [0.1]) == found(0.1, [0.1, 0.2]) == (0, "optimizer.args.lr")
    assert found(0.1, [0.2, 0.1]) == (1, "optimizer.args.lr") and found(0.1, [0.3]) == (0, "")
    assert found(0.1, [0.004], {"args": {"max_lr": 0.1}}) == (0, "lr_scheduler.args.max_lr")


def points_of(settings):
    """What one of several processes finds."""
    from tools.lr_find import tested

    trainer = tiny.as_train_py(settings)
    trainer.restore()
    trainer._connect()
    return list(tested(trainer, 1e-4, 1e3, 60))


def test_several_processes_find_the_same(tmp_path):
    args = {"drop_last": True, "batch_size": 4}
    settings = tiny.settings(tmp_path, trainer__epochs=9, data_loader__args=args)
    first, second = ranks.run(tmp_path, 2, points_of, settings)
    assert first == second and 5 < len(first) < 60


def test_a_learning_rate_is_found(tmp_path):
    printed = run(
        tmp_path,
        "tools/lr_find.py",
        *words(tmp_path),
        "--out",
        tmp_path / "lr.png",
        "--steps",
        "100",
    )
    (rate,) = re.findall(r"suggested: --set optimizer\.args\.lr=(\S+)", printed)
    assert (
        3e-4 < float(rate) < 0.1
        and (tmp_path / "lr.png").exists()
        and not (tmp_path / "models").exists()
    )
    run(tmp_path, "tools/lr_find.py", *words(tmp_path), "--low", "1", "--high", "0.1", code=2)
