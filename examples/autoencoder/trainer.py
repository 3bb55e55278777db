"""The target is the input."""

from typing import Any

import torch
import torch.nn.functional as F
from torchvision.utils import make_grid

from base import Log, one_pass
from trainer import Trainer


def mse_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error of all pixels of images float [n, 1, height, width]."""
    return F.mse_loss(output, target)


class AutoencoderTrainer(Trainer):
    """Batches are images alone; TensorBoard shows some of them above what becomes of them."""

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        output = self.model(batch)
        return self.criterion(output, batch), output, batch

    def _valid_epoch(self, epoch: int) -> Log:
        log = super()._valid_epoch(epoch)
        batch = next(one_pass(self.valid_data_loader, self.seed))
        images = batch[:16].to(self.device)
        with torch.no_grad(), self.judged():
            reconstructions = self.model(images)
        rows = torch.cat([images, reconstructions])
        self.writer.add_image("reconstructions", make_grid(rows, nrow=16))
        return log
