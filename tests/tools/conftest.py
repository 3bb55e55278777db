"""Runs that several tools are shown."""

import shutil

import pytest
import torchvision.datasets  # noqa: F401

from machinery.files import write_json
from scripts import run, train, words


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Three runs, one of them tested, one stopped; and what else may lie about."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "a", **{"trainer.epochs": 2})
    train(folder, "b", **{"trainer.epochs": 2, "optimizer.args.lr": 0.01, "seed": 7})
    run(
        folder,
        "train.py",
        *words(folder, **{"trainer.epochs": 3}),
        "--run_id",
        "c",
        code=143,
        stop_at=2,
    )
    run(folder, "test.py", "-r", folder / "models" / "Digits_LeNet" / "a")
    models = folder / "models"
    (models / "Digits_LeNet" / "empty").mkdir()
    broken = shutil.copytree(models / "Digits_LeNet" / "b", models / "Digits_LeNet" / "broken")
    (broken / "config.json").write_text("{")
    classic = models / "Classic" / "0101_120000"
    classic.mkdir(parents=True)
    write_json(
        {"name": "Classic", "optimizer": {"type": "Adam", "args": {"lr": 0.5}}},
        classic / "config.json",
    )
    return folder
