"""A GAN on points of a ring: two networks, two optimizers, an update of its own."""

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

    def _terms(self, data):
        fake = self.model(torch.randn(len(data), 6))
        real_score, fake_score = self.critic(data), self.critic(fake.detach())
        terms = {
            "critic": F.softplus(-real_score).mean() + F.softplus(fake_score).mean(),
            "generator": F.softplus(-self.critic(fake)).mean(),
        }
        return terms, fake, data

    def _forward(self, batch):
        return self._terms(batch[0])

    def _update(self, batches):
        for batch in batches:
            terms, output, target = self._forward(batch)
            self._record(self.train_metrics, terms, output, target, self.batch_size_of(batch))
            terms["critic"].backward(retain_graph=True)
            self._step(self.critic_optimizer, [terms["critic"].detach()])
            self.optimizer.zero_grad()
            F.softplus(-self.critic(output)).mean().backward()
            self._step(self.optimizer, [terms["generator"].detach()])
            self.critic_optimizer.zero_grad()


class Generator(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6))

    def forward(self, z):
        return self.net(z)


def spread(output, target):
    return (output - target).abs().mean(dim=1)
