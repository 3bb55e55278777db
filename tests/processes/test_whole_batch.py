"""A loss between the samples of a batch is over all of it, however many processes share it out."""

import pytest
import torch
import torch.nn.functional as F

import ranks
import tiny
from exact import Exact, furthest
from machinery.update.runtime import unwrap
from utils import whole_batch


def contrast(output, target):
    """Each sample is to be near those of its class, and to know its place in the batch."""
    alike = output @ output.T
    same = (target[:, None] == target).double()
    places = torch.arange(len(output), dtype=output.dtype)
    return F.mse_loss(alike, same) + ((output[:, 0] - 0.1 * places) ** 2).mean()


contrast.in_batch = True
contrast.__module__ = "tiny"
tiny.contrast = contrast


class Contrastive(Exact):
    def _forward(self, batch):
        data, target = batch
        output = self.model(data.double())
        classes = whole_batch(target.double()[:, None])[:, 0]
        return self.criterion(whole_batch(output), classes), output, target


def trained(config):
    trainer = tiny.build(config, trainer_class=Contrastive)
    trainer.train()
    weights = unwrap(trainer.model).state_dict()
    return {name: value.clone() for name, value in weights.items()}, tiny.rows(trainer)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_train_as_one(tmp_path, size, accumulate):
    """The last batch has a sample, so all but one of the processes have a stand-in."""

    def config(folder):
        return tiny.settings(
            tmp_path / folder,
            loss="contrast",
            metrics=[],
            optimizer={"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}},
            arch__args={"norm": False, "dropout": 0.0},
            data_loader__args={"n": 57, "validation_split": 10, "batch_size": 23},
            trainer__epochs=2,
            trainer__accumulate=accumulate,
            trainer__monitor="off",
        )

    (alone, rows), *_ = ranks.run(tmp_path, 1, trained, config("one"))
    found = ranks.run(tmp_path, size, trained, config("several"))
    for weights, _ in found:
        assert furthest(weights, alone) < 1e-12
    losses = [
        [float(row[rows[0].index("loss")]) for row in table[1:]] for table in (rows, found[0][1])
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def short():
    rows = torch.arange(4.0).to(torch.bfloat16).view(2, 2).requires_grad_()
    whole = whole_batch(rows)
    (whole * torch.arange(8).view(4, 2)).sum().backward()
    with torch.no_grad():
        alone = whole_batch(rows)
    return whole.tolist(), rows.grad.tolist(), alone is rows


def test_rows_of_short_numbers_and_evaluations(tmp_path):
    first, second = ranks.run(tmp_path, 2, short)
    assert first[0] == second[0] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    # Both processes have the same loss, whose gradients they add.
    assert first[1] == [[0, 2], [8, 10]] and second[1] == [[4, 6], [12, 14]]
    assert first[2] and second[2]


def plainly(config):
    trainer = tiny.build(config, trainer_class=Exact)
    trainer.train()
    return {name: value.clone() for name, value in unwrap(trainer.model).state_dict().items()}


def test_a_process_without_a_sample_takes_the_step_of_the_others(tmp_path):
    """Of a loss that is the mean over samples, whose order says how many there are."""
    changes = {
        "loss": "margin",
        "arch__args": {"norm": False, "dropout": 0.0},
        "data_loader__args": {"n": 57, "validation_split": 10, "batch_size": 23},
    }
    alone = ranks.run(tmp_path, 1, plainly, tiny.settings(tmp_path / "one", **changes))[0]
    for weights in ranks.run(tmp_path, 2, plainly, tiny.settings(tmp_path / "two", **changes)):
        assert furthest(weights, alone) < 1e-10
