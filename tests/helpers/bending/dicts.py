"""Dict batches, and a loss of two logged terms."""

import torch
import torch.nn.functional as F

from trainer import Trainer


class DictTrainer(Trainer):
    loss_terms = ("loss", "cross_entropy", "l2")

    def _forward(self, batch):
        output = self.model(batch["x"])
        cross_entropy = self.criterion(output, batch["y"])
        l2 = 1e-3 * sum((p**2).sum() for p in self.model.parameters())
        return (
            {"loss": cross_entropy + l2, "cross_entropy": cross_entropy, "l2": l2},
            {"logits": output},
            batch,
        )


def as_dicts(samples):
    return {"x": torch.stack([x for x, _ in samples]), "y": torch.stack([y for _, y in samples])}


def dict_accuracy(output, target):
    return (output["logits"].argmax(1) == target["y"]).float()


def dict_loss(output, target):
    return F.cross_entropy(output, target)
