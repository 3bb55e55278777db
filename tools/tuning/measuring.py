"""How fast a config trains: some seconds of its own updates, in a scratch folder, of which nothing is kept."""

import itertools
import json
import math
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

from machinery.config.arguments import accepted
from machinery.config.components import find
from machinery.errors import ConfigError, DataError
from machinery.telling import note_batch
from parse_config import ConfigParser
from train import build

#: Updates whose losses are compared, and those that come before the clock: caches fill, kernels are chosen.
COMPARED, WARM_UP = 50, 5
#: Updates between two readings of the clock.
WINDOW = 5


def measured(config: ConfigParser, seconds: float) -> dict[str, Any]:
    """Samples per second, peak memory, the first losses, and what there is to be tuned.

    Args:
        config: of a `--check`.
        seconds: how long to measure.
    """
    import torch

    from trainer.trainer import Trainer

    trainer: Any = build(config)
    if type(trainer)._train_epoch is not Trainer._train_epoch:
        raise ConfigError(f"{type(trainer).__name__} has a loop of its own, which cannot be measured step by step")
    config.launch.checking, trainer.save_step, trainer.writers._writers = False, None, []
    losses: list[Any] = []
    step = trainer._apply_group

    def noted(group: Any, optimizers: Any, again: Any) -> bool:
        losses.append(torch.stack(group.losses).mean() if len(losses) < COMPARED else None)
        return step(group, optimizers, again)

    trainer._apply_group = noted
    with trainer.stop:
        trainer.restore()
        started = time.perf_counter()
        running = updates(trainer)
        for _ in itertools.islice(running, WARM_UP):
            pass
        warm = time.perf_counter() - started
        rate = _rate(running, trainer, seconds)
    found = [float(loss) for loss in losses if loss is not None]
    if trainer.device.type == "cpu":
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    else:
        memory = torch.get_device_module(trainer.device).max_memory_allocated() / 2**20
    return {"rate": rate, "memory": memory, "losses": found, "warm": warm, "facts": _facts(trainer)}


def updates(trainer: Any) -> Iterator[int]:
    """Updates without end, epoch after epoch; how many samples each was of."""
    from machinery.update.networks import to_training

    for epoch in itertools.count(1):
        trainer.epoch, trainer.step = epoch, 0
        to_training(trainer._networks())
        before = trainer.step
        for batches in trainer._groups(epoch):
            try:
                trainer._update(batches)
            except Exception as error:
                note_batch(error, trainer)
                raise
            trainer._after_update(len(batches))
            yield sum(trainer.batch_size_of(batch) for batch in batches)
        if trainer.step == before:
            raise DataError("the training loader gave no batches")


def _rate(updates: Iterator[int], trainer: Any, seconds: float) -> float:
    """Samples per second over all of the time, with what the beginning of an epoch takes."""
    samples = 0
    _wait(trainer.device)
    started, took = time.perf_counter(), 0.0
    while took < seconds:
        samples += sum(itertools.islice(updates, WINDOW))
        _wait(trainer.device)
        took = time.perf_counter() - started
    return samples / took


def _wait(device: Any) -> None:
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize()


def _facts(trainer: Any) -> dict[str, Any]:
    """What can be tuned, and how it is now."""
    import os

    import torch

    import data_loader.data_loaders as module_data
    import model.optim as module_optim

    config = trainer.config
    loader, optimizer = config["data_loader"]["type"], config["optimizer"]["type"]
    modules = (module_optim, torch.optim)
    names, _ = accepted(find((module_data,), loader, config.source, ("data_loader",)))
    steps, _ = accepted(find(modules, optimizer, config.source, ("optimizer",)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "arguments": [*names, "pin_memory"],
        "fused": "fused" in steps,
        "convolves": any(isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d) for m in trainer.model.modules()),
        "device": trainer.device.type,
        "threads": torch.get_num_threads(),
        "cores": cores,
        "workers": getattr(trainer.data_loader, "num_workers", 0),
        "batch": getattr(trainer.data_loader, "batch_size", None),
        "samples": getattr(trainer.data_loader, "n_samples", None) or math.inf,
    }


def main(seconds: float, out: str) -> None:
    """Measure the config of the command line; the figures go to a file as JSON."""
    import argparse
    from pathlib import Path

    from train import OPTIONS

    sys.argv.append("--check")  # a scratch folder that goes at the end
    config = ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS)
    Path(out).write_text(json.dumps(measured(config, seconds)), encoding="utf-8")
