"""The configs of examples/debug find what they are for."""

import pandas as pd
import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

import forked
from machinery.checkpoints import file as checkpoint
from scripts import run, words


@pytest.mark.parametrize("name", ["one_batch", "few_batches", "anomaly"])
def test_debugging_by_a_config(tmp_path, name):
    epochs = {"one_batch": 30, "few_batches": 2, "anomaly": 1}[name]
    more = words(tmp_path, **{"trainer.epochs": epochs, "data_loader.args.batch_size": 16})[2:]
    more += ["--set", f"data_loader.args.validation_split={0.85 if name == 'anomaly' else 0.01}"]
    run(tmp_path, "train.py", "-c", f"examples/debug/{name}.json", "--run_id", "a", *more)
    (log,) = (tmp_path / "log").glob("*/a/metrics.csv")
    table = pd.read_csv(log)
    if name == "one_batch":
        assert table["loss"].iloc[-5:].mean() < 0.5 * table["loss"].iloc[0]
    state = checkpoint.load(
        next((tmp_path / "models").glob("*/a")) / f"checkpoint-epoch{epochs}.pth"
    )
    assert state["progress"]["batches"] == {"one_batch": 1, "few_batches": 4, "anomaly": 38}[name]


class Rooted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x) * torch.sqrt((self.fc.weight * 0).sum())


def _nan(folder):
    import tiny
    from examples.debug.trainers import Anomaly

    trainer = tiny.build(tiny.settings(folder, trainer__epochs=1), trainer_class=Anomaly)
    trainer.model = Rooted()
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with (
        pytest.warns(UserWarning, match="Error detected in (Mul|Sqrt)Backward0"),
        pytest.raises(RuntimeError, match="nan"),
    ):
        trainer.train()


def test_the_operation_that_made_a_nan_is_named(tmp_path):
    assert forked.finish(forked.start(_nan, tmp_path, output=tmp_path / "printed.txt")) == 0
