"""Evaluate a checkpoint: python test.py -r saved/models/NAME/RUN/model_best.pth"""

import argparse
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.errors import ConfigError, StorageError
from machinery.files import read_json, write_json
from parse_config import ConfigParser, CustomArgs


def main(config: ConfigParser, split: str) -> None:
    """Evaluate the checkpoint of the config on the "test" or the "valid" split."""
    import data_loader.data_loaders as module_data
    from train import build

    logger = config.get_logger("test")
    for name in ("test_data_loader", "valid_data_loader"):  # --bs is for these, too
        if getattr(config.launch.args, "bs", None) and config.config.get(name):
            config[name].setdefault("args", {})["batch_size"] = config.launch.args.bs
    loader = (
        test_loader(config, module_data) if split == "test" else valid_loader(config, module_data)
    )
    when = time.strftime(
        "%Y-%m-%dT%H:%M:%S%z"
    )  # a training may put another checkpoint in its place
    trainer = build(config, training=False)
    trainer.restore()
    metrics = trainer.evaluate(loader, trainer.valid_metrics)
    samples = trainer.valid_metrics.count(trainer.loss_terms[0])
    logger.info(f"{config.resume}, {split} data, {samples:,} samples")
    for name, value in metrics.items():
        logger.info(f"{name:<{max(map(len, metrics))}}  {value!r}")
    assert config.resume is not None
    entry = {
        "checkpoint": config.resume.name,
        "split": split,
        "samples": samples,
        "metrics": metrics,
        "when": when,
    }
    keep(config.resume.parent / "test.json", entry, logger)


def keep(file: Path, entry: dict[str, Any], logger: logging.Logger) -> None:
    """Note a result beside the checkpoint, in place of an earlier one of the same checkpoint and split."""
    if distributed.RANK:
        return
    others = []
    with contextlib.suppress(
        OSError, ValueError, TypeError, KeyError
    ):  # there is none yet, or it is spoilt
        others = [
            old
            for old in read_json(file)["results"]
            if any(old[k] != entry[k] for k in ("checkpoint", "split"))
        ]
    try:
        write_json({"results": [*others, entry]}, file)
    except StorageError as error:
        logger.warning(f"{error}; the numbers above are all there is")


def test_loader(config: ConfigParser, module_data: Any) -> Any:
    """The loader of the test data: `test_data_loader`, else the training loader's class with training=False."""
    if config.config.get("test_data_loader"):
        config["test_data_loader"].get("args", {}).pop("validation_split", None)
        return config.init_obj("test_data_loader", module_data)
    args = config["data_loader"].get("args", {})
    config["data_loader"]["args"] = {
        **args,
        "training": False,
        "shuffle": False,
        "validation_split": 0.0,
    }
    try:
        return config.init_obj("data_loader", module_data)
    except ConfigError as error:
        raise ConfigError(
            f"{error}\n  or give the test data a loader of its own: test_data_loader"
        ) from error


def valid_loader(config: ConfigParser, module_data: Any) -> Any:
    """The loader of the validation data, as in training."""
    loader = config.init_obj("valid_data_loader", module_data)
    if loader is None:
        loader = getattr(
            config.init_obj("data_loader", module_data), "split_validation", lambda: None
        )()
    if loader is None:
        raise ConfigError(
            "there is no validation data: no valid_data_loader, and validation_split is 0"
        )
    return loader


def command() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.")
    parser.add_argument(
        "--split", choices=["test", "valid"], default="test", help="data to evaluate on"
    )
    options = [CustomArgs(["--bs", "--batch_size"], type=int, target="data_loader;args;batch_size")]
    config = ConfigParser.from_args(parser, options, evaluating=True, partial=False)
    main(config, config.launch.args.split)


if __name__ == "__main__":
    command()
