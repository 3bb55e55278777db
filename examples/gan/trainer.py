"""Two networks, two optimizers, two losses: what an update is, is said here."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

import examples.gan.model as module_arch
from base import Log
from trainer import Trainer


class GANTrainer(Trainer):
    """Trains the critic and the generator in turn.

    Both and their optimizers are attributes, and so in the checkpoints.
    """

    loss_terms = ("critic", "generator")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.critic = self.config.init_obj("arch_critic", module_arch)
        weights = self.critic.parameters()
        self.critic_optimizer = self.config.init_obj("optimizer_critic", torch.optim, weights)
        self.noise = self.config["arch"]["args"]["noise"]

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        real = batch[0]
        fake = self.model(torch.randn(len(real), self.noise, device=self.device))
        critic = F.softplus(torch.cat([-self.critic(real), self.critic(fake.detach())])).mean()
        generator = F.softplus(-self.critic(fake)).mean()
        return {"critic": critic, "generator": generator}, fake, real

    def _update(self, batches: Sequence[Any]) -> None:
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch), "critic")
            group.step(self.critic_optimizer)
            for batch in group:
                self.backward(self.compute(batch), "generator")
            group.step(self.optimizer)

    def _valid_epoch(self, epoch: int) -> Log:
        log = super()._valid_epoch(epoch)
        same = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(64, self.noise, generator=same).to(self.device)
        with torch.no_grad(), self.judged():
            images = self.model(noise)
        self.writer.add_image("samples", make_grid(images, normalize=True))
        return log
