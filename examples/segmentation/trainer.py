"""Masks as pictures."""

import torch
from torchvision.utils import make_grid

from base import Log, one_pass
from trainer import Trainer


class SegmentationTrainer(Trainer):
    """TensorBoard shows pictures, their masks, and those that the network draws, in rows."""

    def _valid_epoch(self, epoch: int) -> Log:
        log = super()._valid_epoch(epoch)
        pictures, masks = next(one_pass(self.valid_data_loader, self.seed))
        with torch.no_grad(), self.judged():
            output = self.model(pictures.to(self.device))
        drawn = output.argmax(dim=1).cpu()
        rows = [pictures[:8].clamp(0, 1), masks[:8, None] / 2, drawn[:8, None] / 2]
        self.writer.add_image("masks", make_grid(torch.cat(rows), nrow=8))
        return log
