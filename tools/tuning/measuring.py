"""How fast a config trains: some seconds of its own updates, in a scratch folder.

Nothing of it is kept.
"""

import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

from machinery.config.arguments import accepted
from machinery.config.components import find
from machinery.errors import ConfigError, DataError
from machinery.telling import note_batch
from machinery.update.runtime import repeated_blocks
from parse_config import ConfigParser
from train import build

#: Updates whose losses are compared.
COMPARED = 50
#: Updates to let pass before the clock: caches fill, kernels are chosen.
WARM_UP = 5
#: Updates between two readings of the clock.
WINDOW = 5


def measured(config: ConfigParser, seconds: float) -> dict[str, Any]:
    """Samples per second, peak memory, the first losses, and what there is to be tuned.

    Args:
        config: of a `--check`.
        seconds: how long to measure.

    Raises:
        ConfigError: the trainer does not train by updates.
    """
    from trainer.trainer import Trainer

    trainer: Any = build(config)
    if type(trainer)._train_epoch is not Trainer._train_epoch:
        raise ConfigError(
            f"{type(trainer).__name__} has a loop of its own, which cannot be measured step by step"
        )
    config.launch.checking = False
    trainer.save_step = None
    trainer.writers._writers = []
    losses = _note_losses(trainer)
    with trainer.stop:
        trainer.restore()
        started = time.perf_counter()
        running = updates(trainer)
        for _ in itertools.islice(running, WARM_UP):
            pass
        warm = time.perf_counter() - started
        rate = _rate(running, trainer, seconds)
    return {
        "rate": rate,
        "memory": _memory(trainer.device),
        "losses": [float(loss) for loss in losses],
        "warm": warm,
        "facts": _facts(trainer),
    }


def _note_losses(trainer: Any) -> list[Any]:
    """A list that the losses of the trainer's first updates will be in."""
    import torch

    losses: list[Any] = []
    step = trainer._apply_group

    def noted(group: Any, optimizers: Any, again: Any) -> bool:
        if len(losses) < COMPARED:
            losses.append(torch.stack(group.losses).mean())
        done: bool = step(group, optimizers, again)
        return done

    trainer._apply_group = noted
    return losses


def _memory(device: Any) -> float:
    """The most memory that was in use, in MB: the device's, or this process'."""
    import torch

    if device.type != "cpu":
        most: float = torch.get_device_module(device).max_memory_allocated() / 2**20
        return most
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":  # in bytes there
        return most / 2**20
    return most / 2**10


def updates(trainer: Any) -> Iterator[int]:
    """Updates without end, epoch after epoch; how many samples each was of."""
    from machinery.update.networks import to_training

    for epoch in itertools.count(1):
        trainer.epoch = epoch
        trainer.step = 0
        to_training(trainer._networks())
        before = trainer.step
        for batches in trainer._groups(epoch):
            try:
                if batches:  # else none of their samples could be read
                    trainer._update(batches)
            except Exception as error:
                note_batch(error, trainer)
                raise
            trainer._after_update(trainer._sizes.steps)
            yield sum(trainer.batch_size_of(batch) for batch in batches)
        if trainer.step == before:
            raise DataError("the training loader gave no batches")


def _rate(updates: Iterator[int], trainer: Any, seconds: float) -> float:
    """Samples per second over all of the time, with what the beginning of an epoch takes."""
    samples = 0
    took = 0.0
    _wait(trainer.device)
    started = time.perf_counter()
    while took < seconds:
        samples += sum(itertools.islice(updates, WINDOW))
        _wait(trainer.device)
        took = time.perf_counter() - started
    return samples / took


def _wait(device: Any) -> None:
    """Until a GPU has done what it was given."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()


def _facts(trainer: Any) -> dict[str, Any]:
    """What can be tuned, and how it is now."""
    import torch

    import data_loader.data_loaders as module_data
    import model.optim as module_optim

    # A loader of the user's own need not be one of torch's.
    loader = trainer.data_loader
    return {
        "arguments": [*_arguments(trainer.config, "data_loader", module_data), "pin_memory"],
        "fuses": "fused" in _arguments(trainer.config, "optimizer", module_optim, torch.optim),
        "fused": any(group.get("fused") for group in trainer.optimizer.param_groups),
        "channels_last": trainer.settings.channels_last,
        "compile": trainer.settings.compile,
        "blocks": bool(repeated_blocks(trainer.model)),
        "convolves": _convolves(trainer.model),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "cores": _cores(),
        "workers": getattr(loader, "num_workers", 0),
        "batch": getattr(loader, "batch_size", None),
        "samples": getattr(loader, "n_samples", 0) or math.inf,
    }


def _arguments(config: Any, key: str, *modules: Any) -> list[str]:
    """The arguments that a component of the config takes.

    Args:
        key: of the component.
        modules: that its class may be in.
    """
    component = find(modules, config[key]["type"], config.source, (key,))
    return list(accepted(component).types)


def _convolves(model: Any) -> bool:
    """Whether a model has layers for which the order of the channels in memory matters."""
    import torch

    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    return any(isinstance(module, kinds) for module in model.modules())


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main(seconds: float, out: str) -> None:
    """Measure the config of the command line; the figures go to a file as JSON."""
    import argparse
    from pathlib import Path

    from train import OPTIONS

    sys.argv.append("--check")  # a scratch folder that goes at the end
    config = ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS)
    Path(out).write_text(json.dumps(measured(config, seconds)), encoding="utf-8")
