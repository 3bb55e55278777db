"""A trainer as the classic template's examples have it, with a loop of its own."""

import torch

import tiny
from base import BaseTrainer
from parse_config import ConfigParser
from utils import MetricTracker


class OwnLoop(BaseTrainer):
    """A trainer as the classic template's examples have it."""

    def __init__(
        self, model, criterion, metric_ftns, optimizer, config, data_loader, lr_scheduler=None
    ):
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        self.data_loader, self.lr_scheduler = data_loader, lr_scheduler
        self.train_metrics = MetricTracker(
            "loss", *[m.__name__ for m in self.metric_ftns], writer=self.writer
        )

    def _train_epoch(self, epoch):
        self.model.train()
        self.train_metrics.reset()
        for batch_idx, (data, target) in enumerate(self.data_loader):
            data, target = data.to(self.device), target.to(self.device)
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(data), target)
            loss.backward()
            self.optimizer.step()
            self.writer.set_step((epoch - 1) * len(self.data_loader) + batch_idx)
            self.train_metrics.update("loss", loss)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        return {**self.train_metrics.result(), **self.more(epoch)}

    def more(self, epoch):
        return {}


def build(config, cls=OwnLoop, model=None, scheduler=None, loader=None, **kwargs):
    parser = config if isinstance(config, ConfigParser) else ConfigParser(config, **kwargs)
    model = model or parser.init_obj("arch", tiny)
    optimizer = parser.init_obj(
        "optimizer", torch.optim, filter(lambda p: p.requires_grad, model.parameters())
    )
    scheduler = scheduler(optimizer) if scheduler else None
    loader = loader or parser.init_obj("data_loader", tiny)
    return cls(model, tiny.cross_entropy, [], optimizer, parser, loader, scheduler)
