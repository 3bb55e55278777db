"""A trained model with its data, as test.py has them: what tools that look at one begin with."""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_leaves, tree_map

import data_loader.data_loaders as module_data
import test
from base.base_data_loader import one_pass
from machinery.errors import ConfigError, StorageError
from machinery.files import ensure_dir
from machinery.telling import note_batch
from machinery.update.metric_values import classes_of as classes_of, dataset_of as dataset_of
from machinery.update.networks import without_gradients
from parse_config import ConfigParser
from train import build

#: What a network is called with: its arguments by place, and those by name.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class Trained(NamedTuple):
    """A checkpoint's trainer and data."""

    #: Its networks are in evaluation mode within `judged()`.
    trainer: Any
    loader: Any
    config: ConfigParser
    #: Of the checkpoint, as folders are called by it.
    epoch: str


class Seen(NamedTuple):
    """What becomes of a batch."""

    #: What the network is called with, and what it returns.
    call: Call
    returned: Any
    #: What the metrics get.
    output: Any
    target: Any


def parsed(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Trained]:
    """Parse a command line with `-r CHECKPOINT`, `--split` and test.py's options, and load it."""
    parser.add_argument(
        "--split",
        type=partial(split_of, ("test", "valid")),
        default="test",
        help='data to take (test): test, valid, or one of several sets: "valid.NAME"',
    )
    config = ConfigParser.from_args(parser, evaluating=True, partial=False)
    loader = evaluation_loader(config, config.launch.args.split)
    trainer = build(config, training=False)
    epoch = f"epoch{config.launch.content()['epoch']}"
    trainer.restore()
    return config.launch.args, Trained(trainer, loader, config, epoch)


def evaluation_loader(config: ConfigParser, split: str) -> Any:
    """The loader of the "test" or the "valid" data, as test.py makes it; "valid.NAME": a set's.

    Raises:
        ConfigError: there is no such set, or there are several.
    """
    part, _, name = split.partition(".")
    if part == "test":
        loader = test.test_loader(config, module_data)
    else:
        loader = test.valid_loader(config, module_data)
    if not isinstance(loader, dict):
        if name:
            raise ConfigError(f"--split {split}: the {part} data is one set: --split {part}")
        return loader
    if name not in loader:
        there = ", ".join([f"{part}.{key}" for key in loader])
        raise ConfigError(f"--split {split}: the {part} data has several sets: {there}")
    return loader[name]


def split_of(parts: Sequence[str], text: str) -> str:
    """A part of the data as the command line names it: such as "valid", or "valid.NAME"."""
    if text.partition(".")[0] not in parts:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(parts)}")
    return text


def seen(trained: Trained) -> Iterator[Seen]:
    """What the network makes of the data, batch by batch."""
    trainer = trained.trainer
    for batch in one_pass(trained.loader, trainer.seed):
        yield _seen(trainer, batch)


def _seen(trainer: Any, batch: Any) -> Seen:
    calls: list[tuple[Call, Any]] = []

    def note(_module: Any, args: Any, kwargs: Any, returned: Any) -> None:
        calls.append(((args, kwargs), returned))

    with trainer.judged(), without_gradients(trainer.model):
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
    call, returned = calls[0]
    return tree_map(_detached, Seen(call, returned, computed.output, computed.target))


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a batch, or in what a network takes or returns."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def folder_of(trained: Trained, name: str, given: Path | None) -> Path:
    """The folder for what a tool makes of a run: as given, or of that name beside the checkpoint.

    Raises:
        StorageError: it cannot be made.
    """
    assert trained.config.resume is not None
    beside = trained.config.resume.parent
    folder = given or beside / name
    if given is None and folder.resolve() != beside.resolve() / name:
        raise StorageError(f"{folder} is a link, and is not written to")
    ensure_dir(folder)
    return folder
