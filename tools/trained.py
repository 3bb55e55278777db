"""A trained model with its data, as test.py has them: what tools that look at one begin with."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machinery.errors import ConfigError
from machinery.files import ensure_dir
from machinery.telling import note_batch
from parse_config import ConfigParser


class Trained(NamedTuple):
    """A trainer whose networks are those of a checkpoint, in evaluation mode within `judged()`, and a loader."""

    trainer: Any
    loader: Any
    config: ConfigParser


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Trained]:
    """Parse a command line with `-r CHECKPOINT`, `--split` and test.py's options, and load what it names."""
    import data_loader.data_loaders as module_data
    import test
    from train import build

    parser.add_argument("--split", choices=["test", "valid"], default="test", help="data to take (test)")
    config = ConfigParser.from_args(parser, evaluating=True, partial=False)
    loader = (test.test_loader if config.launch.args.split == "test" else test.valid_loader)(config, module_data)
    trainer = build(config, training=False)
    trainer.restore()
    return config.launch.args, Trained(trainer, loader, config)


def seen(trained: Trained) -> Iterator[tuple[Any, Any, Any, Any]]:
    """What the network is called with, what it returns, what metrics get as output and as target: batch by batch."""
    import torch

    from base.base_data_loader import one_pass

    trainer = trained.trainer
    for batch in one_pass(trained.loader, trainer.seed):
        calls: list[Any] = []

        def note(_module: Any, args: Any, kwargs: Any, output: Any, calls: list[Any] = calls) -> None:
            calls.append(((args, kwargs), output))

        with torch.no_grad(), trainer.judged():
            handle = trainer.model.register_forward_hook(note, with_kwargs=True)
            try:
                computed = trainer.compute(batch)
            except Exception as error:
                note_batch(error, trainer)
                raise
            finally:
                handle.remove()
        if not calls:
            raise ConfigError(f"{type(trainer).__name__}._forward does not call self.model")
        yield *calls[0], computed.output, computed.target


def dataset_of(loader: Any) -> Any:
    """The dataset below `Subset`s."""
    from torch.utils.data import Subset

    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def classes_of(loader: Any, count: int | None = None) -> list[str]:
    """The names of the classes, as the loader or its dataset knows them.

    Args:
        count: how many there are; their numbers, if so many names are not known.
    """
    found = getattr(loader, "classes", None) or getattr(dataset_of(loader), "classes", None)
    if isinstance(found, dict):  # of names to numbers, or of numbers to names
        by_number = {pair[isinstance(pair[0], str)]: pair[not isinstance(pair[0], str)] for pair in found.items()}
        found = [by_number.get(k, k) for k in range(max(map(int, by_number), default=0) + 1)]
    names = [str(name) for name in found] if isinstance(found, list | tuple) else []
    return names if count in (None, len(names)) else [str(i) for i in range(count or 0)]


def folder_of(trained: Trained, name: str, given: Path | None) -> Path:
    """The folder for what a tool makes of a run: as given, or beside the checkpoint, with its epoch in the name.

    Raises:
        StorageError: it cannot be made.
    """
    assert trained.config.resume is not None
    name = name.format(epoch=f"epoch{trained.config.launch.content()['epoch']}")
    folder = given or trained.config.resume.parent / name
    ensure_dir(folder)
    return folder
