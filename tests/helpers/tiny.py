"""A small project for the tests: uneven on purpose, and random wherever a real one may be."""

import argparse
import copy
import hashlib
import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    Dataset,
    IterableDataset,
    Subset,
    WeightedRandomSampler,
)

from base import BaseDataLoader, BaseModel
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import (
    Stopped,
)
from machinery.order.seeding import uniform_rows
from machinery.update.runtime import unwrap
from parse_config import ConfigParser
from trainer import Trainer


class Points(Dataset):
    """n points of 6 numbers in 3 classes; training adds noise from torch, random and numpy."""

    def __init__(self, n, noise=True):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(n, 6, generator=generator)
        self.y = (self.x[:, :3] + 0.3 * self.x[:, 3:]).argmax(1)
        self.noise = noise

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        x = self.x[i]
        if self.noise:
            x = x + 0.1 * torch.randn(6) + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return x, self.y[i]

    def evaluation_view(self):
        view = copy.copy(self)
        view.noise = False
        return view


class WholePoints(Points):
    """The same as whole-batch data."""

    def __getitems__(self, indices):
        assert isinstance(indices, torch.Tensor)
        x = self.x[indices]
        if self.noise:
            x = x + 0.1 * uniform_rows(len(indices), 6)
        return x, self.y[indices]

    def to(self, device):
        self.x, self.y = self.x.to(device), self.y.to(device)


class Stream(IterableDataset):
    """An endless source cut at n, random in each pass."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        for _ in range(self.n if info is None else self.n // info.num_workers):
            x = torch.randn(6)
            yield x, x[:3].argmax()


def mixup(samples):
    """A collate function that draws."""
    x = torch.stack([x for x, _ in samples])
    y = torch.stack([y for _, y in samples])
    return x + 0.1 * torch.rand(()) * x.flip(0), y


class TinyLoader(BaseDataLoader):
    def __init__(
        self,
        batch_size=8,
        shuffle=True,
        validation_split=0.2,
        num_workers=0,
        training=True,
        n=103,
        kind="points",
        **options,
    ):
        dataset = {"points": Points, "whole": WholePoints, "stream": Stream}.get(kind, Points)(n)
        if kind == "subset":
            dataset = Subset(dataset, list(range(3, n, 2)))
        if kind == "subset-whole":
            dataset = Subset(WholePoints(n), list(range(3, n, 2)))
        if kind == "weighted":
            options["sampler"] = WeightedRandomSampler(torch.arange(1.0, n + 1), n)
        if kind == "mixup":
            options["collate_fn"] = mixup
        if kind == "dicts":
            from bending.dicts import as_dicts

            options["collate_fn"] = as_dicts
        if kind == "batches":
            options["batch_sampler"], shuffle = Batches(n), False
        if not training:
            dataset = dataset.evaluation_view()
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)


class Batches:
    """Batches of uneven sizes, in a random order."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return 9

    def __iter__(self):
        order = np.random.permutation(self.n)
        return iter([order[i * (i + 1) : (i + 1) * (i + 2)].tolist() for i in range(9)])


class TinyModel(BaseModel):
    def __init__(self, width=12, dropout=0.3, norm=True):
        super().__init__()
        self.fc1 = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(width, 3)

    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.norm(self.fc1(x)))))


def cross_entropy(output, target):
    return F.cross_entropy(output, target)


def margin(output, target):
    return F.multi_margin_loss(output, target)


class Shifted(nn.Module):
    """Cross entropy with a learned shift of the scores."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))

    def forward(self, output, target):
        return F.cross_entropy(output + self.shift, target)


def nan_loss(output, target):
    """Becomes NaN once 40 samples with a positive first number have been seen."""
    return F.cross_entropy(output, target) * torch.where(
        output.detach().abs().max() > 1e-6, torch.nan, 1.0
    )


def accuracy(output, target):
    return (output.argmax(1) == target).float()


def mean_accuracy(output, target):
    return float((output.argmax(1) == target).float().mean())


HERE = sys.modules[__name__]

CONFIG = {
    "name": "Tiny",
    "n_gpu": 0,
    "arch": {"type": "TinyModel", "args": {}},
    "data_loader": {"type": "TinyLoader", "args": {}},
    "optimizer": {"type": "Adam", "args": {"lr": 0.01}},
    "loss": "cross_entropy",
    "metrics": ["accuracy", "mean_accuracy"],
    "lr_scheduler": {"type": "StepLR", "args": {"step_size": 2, "gamma": 0.5}},
    "trainer": {
        "epochs": 3,
        "tensorboard": False,
        "monitor": "min val_loss",
        "verbosity": 0,
        "log_step": 4,
    },
}


def settings(folder, **changes):
    """The tiny config with its runs in `folder` and dotted__keys changed."""
    config = copy.deepcopy(CONFIG)
    config["trainer"]["save_dir"] = str(folder)
    for key, value in changes.items():
        target = config
        *path, last = key.split("__")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return config


def build(config, resume=None, run_id=None, trainer_class=Trainer, **kwargs):
    """A trainer of the tiny project, from a config or from a parser."""
    parser = (
        config
        if isinstance(config, ConfigParser)
        else ConfigParser(config, resume=resume, run_id=run_id)
    )
    loader = parser.init_obj("data_loader", HERE)
    model = parser.init_obj("arch", HERE)
    optimizer = parser.init_obj("optimizer", torch.optim, list(model.parameters()))
    kwargs.setdefault("valid_data_loader", loader.split_validation())
    kwargs.setdefault("data_loader", loader)
    return trainer_class(
        model,
        parser.init_ftn("loss", HERE),
        parser.init_ftns("metrics", HERE),
        optimizer,
        config=parser,
        device=torch.device("cpu"),
        lr_scheduler=init_scheduler(parser, optimizer, len(loader)),
        **kwargs,
    )


def init_optimizer_from(parser, **kwargs):
    """A trainer whose optimizer has the groups that the config says."""
    trainer = build(parser, **kwargs)
    trainer.optimizer = init_optimizer(parser, unwrap(trainer.model), loss=trainer.criterion)
    trainer.lr_scheduler = init_scheduler(parser, trainer.optimizer, len(trainer.data_loader))
    return trainer


def as_train_py(config, resume=None, trainer_class=Trainer):
    """A trainer all of whose parts come from the config, in the order of train.py."""
    parser = ConfigParser(config, resume=resume)
    loader = parser.init_obj("data_loader", HERE)
    model = parser.init_obj("arch", HERE)
    criterion = parser.init_ftn("loss", HERE)
    optimizer = init_optimizer(parser, model, HERE, loss=criterion)
    return trainer_class(
        model,
        criterion,
        parser.init_ftns("metrics", HERE),
        optimizer,
        config=parser,
        device=torch.device("cpu"),
        data_loader=loader,
        valid_data_loader=parser.init_obj("valid_data_loader", HERE) or loader.split_validation(),
        lr_scheduler=init_scheduler(parser, optimizer, len(loader), HERE),
    )


def train(config, **kwargs):
    """Train the tiny project; the trainer."""
    trainer = build(config, **kwargs)
    trainer.train()
    return trainer


def command_line(*arguments, partial=False):
    """The parser of a command line of the tiny project."""
    sys.argv = ["train.py", *map(str, arguments)]
    return ConfigParser.from_args(argparse.ArgumentParser(), partial=partial)


def digest(model):
    """A hash of all weights and buffers."""
    sha256 = hashlib.sha256()
    for name, value in model.state_dict().items():
        sha256.update(name.encode() + value.numpy().tobytes())
    return sha256.hexdigest()


def rows(trainer):
    """The rows of metrics.csv without what depends on the clock."""
    lines = (Path(trainer.config.log_dir) / "metrics.csv").read_text().splitlines()
    return [line.split(",")[:-2] for line in lines]


def status(trainer):
    return json.loads((trainer.checkpoint_dir / "status.json").read_text())


class Counted(IterableDataset):
    def __init__(self, n, promised):
        self.n, self.promised = n, promised

    def __len__(self):
        return self.promised

    def __iter__(self):
        return iter([(torch.full((6,), float(i)), i % 3) for i in range(self.n)])


class Several(Trainer):
    """A teacher that is switched off, networks in a list and in a dict, and a layer of the model
    that stays frozen."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = TinyModel().eval()
        self.experts = [nn.BatchNorm1d(6), {"deep": nn.BatchNorm1d(6)}]
        self.model.norm.eval()
        self.seen = set()

    def _forward(self, batch):
        data, _ = batch
        parts = (
            self.teacher,
            self.experts[0],
            self.experts[1]["deep"],
            self.model,
            self.model.norm,
            self.model.drop,
        )
        self.seen.add(tuple(part.training for part in parts))
        for part in parts[:3]:
            part(data)
        return super()._forward(batch)


def write_config(tmp_path, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(settings(tmp_path, **{"trainer__verbosity": 1, **changes})))
    return path


class Interrupted(Trainer):
    """Gets a signal after so many updates, or so many validation batches."""

    after = 10**9
    in_validation = False
    count = 0

    def _forward(self, batch):
        if self.model.training != self.in_validation:
            self.count += 1
            if self.count == self.after:
                os.kill(os.getpid(), signal.SIGTERM)
        return super()._forward(batch)


def interrupted(config, after, in_validation=False, cls=(), **kwargs):
    """Train until the signal; the path of the newest checkpoint."""
    cls = type("Interrupted", (*cls, Interrupted), {"after": after, "in_validation": in_validation})
    trainer = build(config, trainer_class=cls, **kwargs)
    with pytest.raises(Stopped) as caught:
        trainer.train()
    assert caught.value.exit_code == 143
    return newest(trainer.checkpoint_dir)


def newest(folder):
    from machinery.checkpoints.run_folder import checkpoints

    return checkpoints(folder)[-1].path


def best_by_epoch(values):
    """A trainer whose validation loss in each epoch is given."""

    class Judged(Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": values[epoch - 1]}

    return Judged


class Noisy(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return torch.randn(6) + i / 80, i % 3


ADAM = {"type": "Adam", "args": {"lr": 0.01}}


def changed_config(tmp_path, before, after, epochs=2):
    """A run of two epochs, and a trainer that continues it with another config."""
    path = tmp_path / "c.json"
    command = ["-c", path, "--run_id", "one", "-r", "auto"]
    path.write_text(json.dumps(settings(tmp_path, trainer__epochs=epochs, **before)))
    init_optimizer_from(command_line(*command)).train()
    path.write_text(json.dumps(settings(tmp_path, trainer__epochs=epochs + 4, **after)))
    return init_optimizer_from(command_line(*command))
