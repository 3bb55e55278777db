"""tools/lr_find.py: the rate that is suggested is what the training takes."""

import re
from types import SimpleNamespace

import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

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
