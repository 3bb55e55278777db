"""Build every part from the config, and train: python train.py -c config.json"""

import argparse
from typing import TYPE_CHECKING, Any

from machinery.launch import read_run
from parse_config import ConfigParser, CustomArgs

if TYPE_CHECKING:
    import torch

    from trainer import Trainer

#: Options of your own for keys of the config.
OPTIONS = [
    CustomArgs(["--lr", "--learning_rate"], type=float, target="optimizer;args;lr"),
    CustomArgs(["--bs", "--batch_size"], type=int, target="data_loader;args;batch_size"),
]

# What needs torch is imported in the functions, so that a mistake in the command line or the config
# is told before.


def main(config: ConfigParser) -> "Trainer":
    """Train what the config says; return the trainer."""
    trainer = build(config)
    trainer.train()
    return trainer


def build(config: ConfigParser, training: bool = True) -> "Trainer":
    """The trainer with all its parts.

    For test.py (`training=False`) it has no data and no schedule, and nothing is optimized. A
    second network or a tracker belongs here.
    """
    import model.loss as module_loss
    import model.metric as module_metric
    import model.model as module_arch
    import model.optim as module_optim
    import trainer.trainer as module_trainer
    from base import BaseTrainer
    from logger.visualization import Writer
    from machinery.config.optimization import init_optimizer, init_scheduler
    from utils import prepare_device

    kind = config.trainer_class(module_trainer, BaseTrainer)
    data_loader: Any = None
    valid_data_loader: Any = None
    if training:
        check_names(config)
        data_loader, valid_data_loader = build_loaders(config)
    model = config.init_obj("arch", module_arch)
    device, _ = prepare_device(config.settings.n_gpu)
    model = model.to(device)
    criterion = config.init_ftn("loss", module_loss)
    metrics = config.init_ftns("metrics", module_metric)
    optimizer = init_optimizer(config, model, module_optim, loss=criterion)
    lr_scheduler: Any = None
    trackers: list[Any] = []
    if training:
        lr_scheduler = init_scheduler(config, optimizer, len(data_loader), module_optim)
        trackers = config.init_ftns("trainer.trackers", module_trainer, config, required=Writer)
    data = (data_loader, valid_data_loader)
    trainer = kind(model, criterion, metrics, optimizer, config, device, *data, lr_scheduler)
    if not config.launch.checking:
        for tracker in trackers:
            trainer.writers.add(tracker)
    return trainer


def load_run(path: Any) -> "tuple[torch.nn.Module, ConfigParser]":
    """The model of a run folder's best checkpoint, or of a checkpoint file, and its config.

    It is ready to be used.

    Raises:
        CheckpointError: there is none, or it does not fit.
    """
    checked, launch = read_run(path)
    trainer = build(ConfigParser(checked, launch=launch), training=False)
    trainer.restore()
    with trainer.judged():
        model = trainer.model
    return model.eval(), trainer.config


def check_names(config: ConfigParser) -> None:
    """Refuse names and arguments that nothing in the project has, before anything is built.

    Raises:
        ConfigError: with all problems.
    """
    import torch

    import data_loader.data_loaders as module_data
    import model.loss as module_loss
    import model.metric as module_metric
    import model.model as module_arch
    import model.optim as module_optim
    import trainer.trainer as module_trainer
    from logger.visualization import Writer

    looked_up: dict[str, Any] = {
        "data_loader": module_data,
        "valid_data_loader": module_data,
        "test_data_loader": module_data,
        "trainer.trackers": module_trainer,
        "arch": module_arch,
        "loss": module_loss,
        "metrics": module_metric,
        "optimizer": (module_optim, torch.optim),
        "lr_scheduler": (module_optim, torch.optim.lr_scheduler),
    }
    config.check({"trainer.trackers": Writer}, **looked_up)


def build_loaders(config: ConfigParser) -> tuple[Any, Any]:
    """The loaders of the training and the validation data; None where there is none."""
    import data_loader.data_loaders as module_data

    data_loader = config.init_obj("data_loader", module_data)
    valid_data_loader = config.init_obj("valid_data_loader", module_data)
    if valid_data_loader is None and hasattr(data_loader, "split_validation"):
        valid_data_loader = data_loader.split_validation()
    return data_loader, valid_data_loader


def command() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train a model as a config file says, or continue a run."
    )
    main(ConfigParser.from_args(parser, OPTIONS, partial=False))


if __name__ == "__main__":
    command()
