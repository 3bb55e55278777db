"""A GAN on points of a ring: two networks, two optimizers, an update of its own."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trainer import Trainer


class GANTrainer(Trainer):
    loss_terms = ("critic", "generator")

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(), nn.Linear(16, 1))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=0.01)

    def _forward(self, batch):
        data, _ = batch
        fake = self.model(torch.randn_like(data))
        terms = {
            "critic": F.softplus(-self.critic(data)).mean()
            + F.softplus(self.critic(fake.detach())).mean(),
            "generator": F.softplus(-self.critic(fake)).mean(),
        }
        return terms, fake, data

    def _update(self, batches: Any) -> None:
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch), "critic")
            group.step(self.critic_optimizer)
            for batch in group:
                self.backward(self.compute(batch), "generator")
            group.step(self.optimizer)


class Generator(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6))

    def forward(self, z):
        return self.net(z)


def spread(output, target):
    return (output - target).abs().mean(dim=1)
