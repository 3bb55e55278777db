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
    """Trains the critic and the generator in turn; both and their optimizers are in the checkpoints."""

    loss_terms = ("critic", "generator")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.critic = self.config.init_obj("arch_critic", module_arch)
        self.critic_optimizer = self.config.init_obj("optimizer_critic", torch.optim, self.critic.parameters())
        self.noise = self.config["arch"]["args"]["noise"]

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        real = batch[0]
        fake = self.model(torch.randn(len(real), self.noise, device=self.device))
        critic = F.softplus(torch.cat([-self.critic(real), self.critic(fake.detach())])).mean()
        return {"critic": critic, "generator": F.softplus(-self.critic(fake)).mean()}, fake, real

    def _update(self, batches: Sequence[Any]) -> None:
        for name, optimizer in {"critic": self.critic_optimizer, "generator": self.optimizer}.items():
            seen = []
            for k, (batch, n) in enumerate(zip(batches, self._group.sizes, strict=True)):
                terms, output, target = self._compute(batch, None, n)
                self.runtime.backward(terms[name] * self._group.share(k))
                seen.append(({key: term.detach() for key, term in terms.items()}, output, target, n))
            applied = self._apply(optimizer, [terms[name] for terms, *_ in seen])
            for each in seen if applied and name == "critic" else ():
                self._record(self.train_metrics, *each)
        self.critic_optimizer.zero_grad()  # what the generator's loss has left there
        self._schedule("step", {})

    def _valid_epoch(self, epoch: int) -> Log:
        log = super()._valid_epoch(epoch)
        noise = torch.randn(64, self.noise, generator=torch.Generator().manual_seed(self.seed))
        with torch.no_grad(), self.judged():
            self.writer.add_image("samples", make_grid(self.model(noise.to(self.device)), normalize=True))
        return log
