"""LBFGS, which computes its loss several times a step: import this trainer in train.py in place of the template's."""

from collections.abc import Sequence
from typing import Any

import torch

from trainer import Trainer


class LBFGSTrainer(Trainer):
    """Gives the optimizer a function that computes the gradients once more.

    Source: Liu and Nocedal 1989, doi:10.1007/BF01589116.

    The numbers of the log are those of the first computation in each step. fp16 cannot be had: its scaling allows one.
    """

    def _update(self, batches: Sequence[Any]) -> None:
        """One search for the minimum on a group of batches, as if they were one large batch."""
        sizes = [self.batch_size_of(batch) for batch in batches]
        losses: list[torch.Tensor] = []

        def closure() -> torch.Tensor:
            self.optimizer.zero_grad()
            tracker, mean = None if losses else self.train_metrics, torch.zeros((), device=self.device)
            for batch, n in zip(batches, sizes, strict=True):
                loss = self._compute(batch, tracker, n)[0][self.loss_terms[0]] * (n / sum(sizes))
                self.runtime.backward(loss)
                mean = mean + loss.detach()
            self.runtime.clip(self.optimizer)
            losses.append(mean)
            return mean

        self.lr = self.optimizer.param_groups[0]["lr"]
        self.optimizer.step(closure)  # type: ignore[arg-type]
        self.optimizer.zero_grad()
        self._watch.accepts(losses[:1])
        self._schedule("step", {})
