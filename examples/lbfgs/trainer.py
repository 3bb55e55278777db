"""LBFGS, which computes its loss several times a step: "trainer": {"type": "examples.lbfgs.trainer.LBFGSTrainer"}."""

from collections.abc import Sequence
from typing import Any

import torch

from trainer import Trainer
from utils import ConfigError, distributed


class LBFGSTrainer(Trainer):
    """Gives the optimizer a function that computes the gradients once more.

    Source: Liu and Nocedal 1989, doi:10.1007/BF01589116.

    Raises:
        ConfigError: with fp16, whose scaling allows for one computation a step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        config = kwargs["config"] if "config" in kwargs else args[4]
        if config.settings.trainer.precision == "fp16":
            raise ConfigError("trainer.precision: LBFGS computes its loss several times a step: use bf16 or fp32")
        super().__init__(*args, **kwargs)

    def _update(self, batches: Sequence[Any]) -> None:
        """One search for the minimum on a group of batches, as if they were one large batch."""
        self.lr = self.optimizer.param_groups[0]["lr"]
        seen: list[Any] = []
        mean = self._gradients(batches, seen)
        if self._watch.accepts([mean]):
            for each in seen:
                self._record(self.train_metrics, *each)
            self.optimizer.step(lambda: self._gradients(batches))  # type: ignore[arg-type,return-value]
        else:
            self.logger.warning(f"step {self.step} of epoch {self.epoch} skipped: the loss is not finite")
        self.optimizer.zero_grad()
        self._schedule("step", {})

    def _gradients(self, batches: Sequence[Any], seen: list[Any] | None = None) -> torch.Tensor:
        """Compute the gradients of the mean loss over all samples of the batches; that loss.

        Args:
            seen: gets loss terms, output, target and size of each batch.
        """
        self.optimizer.zero_grad()
        mean = torch.zeros((), device=self.device)
        for k, (batch, n) in enumerate(zip(batches, self._group.sizes, strict=True)):
            terms, output, target = self._compute(batch, None, n)
            if seen is not None:
                seen.append(({name: term.detach() for name, term in terms.items()}, output.detach(), target, n))
            loss = terms[self.loss_terms[0]] * self._group.share(k)
            self.runtime.backward(loss)
            mean = mean + loss.detach() * (1.0 if self.runtime.weight is None else self.runtime.weight)
        self.runtime.clip(self.optimizer)
        return mean if distributed.SIZE == 1 else distributed.average(mean)  # the search has to be the same everywhere
