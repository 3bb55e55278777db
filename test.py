"""Evaluate a checkpoint: python test.py -r saved/models/NAME/RUN/model_best.pth"""

import argparse
import time
from typing import Any

from machinery.errors import ConfigError
from parse_config import ConfigParser, CustomArgs


def main(config: ConfigParser, split: str) -> None:
    """Evaluate the checkpoint of the config on the "test" or the "valid" split."""
    import data_loader.data_loaders as module_data
    from logger.pictures import draw_tables
    from logger.results import report_result
    from train import build

    logger = config.get_logger("test")
    _set_batch_size(config)
    if split == "test":
        loader = test_loader(config, module_data)
    else:
        loader = valid_loader(config, module_data)
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")  # a training may put another checkpoint there
    trainer = build(config, training=False)
    trainer.restore()
    metrics = trainer.evaluate(loader, trainer.valid_metrics)
    checkpoint = config.resume
    assert checkpoint is not None
    draw_tables(trainer.valid_metrics, checkpoint.parent, split)
    entry = {
        "checkpoint": checkpoint.name,
        "split": split,
        "samples": trainer.valid_metrics.samples_everywhere(),
        "metrics": metrics,
        "when": when,
    }
    report_result(checkpoint.parent / "test.json", entry, logger)


def _set_batch_size(config: ConfigParser) -> None:
    """Let --bs count for the loaders of validation and test, too."""
    batch_size = getattr(config.launch.args, "bs", None)
    if batch_size is None:
        return
    for name in ("test_data_loader", "valid_data_loader"):
        for section in config.sections(name):
            section.setdefault("args", {})["batch_size"] = batch_size


def test_loader(config: ConfigParser, module_data: Any) -> Any:
    """The loader of the test data.

    It is `test_data_loader`, else the training loader's class with training=False.
    """
    sections = config.sections("test_data_loader")
    if sections:
        for section in sections:
            section.get("args", {}).pop("validation_split", None)
        return config.init_obj("test_data_loader", module_data)
    args = config["data_loader"].get("args", {})
    all_of_it = {"training": False, "shuffle": False, "validation_split": 0.0}
    config["data_loader"]["args"] = {**args, **all_of_it}
    try:
        return config.init_obj("data_loader", module_data)
    except ConfigError as error:
        hint = "or give the test data a loader of its own: test_data_loader"
        raise ConfigError(f"{error}\n  {hint}") from error


def valid_loader(config: ConfigParser, module_data: Any) -> Any:
    """The loader of the validation data, as in training."""
    loader = config.init_obj("valid_data_loader", module_data)
    if loader is None:
        loader = split_off(config.init_obj("data_loader", module_data))
    if loader is None:
        what = "no valid_data_loader, and validation_split is 0"
        raise ConfigError(f"there is no validation data: {what}")
    return loader


def split_off(loader: Any) -> Any:
    """A loader of the samples that a training loader holds out; None if it holds out none."""
    if hasattr(loader, "split_validation"):
        return loader.split_validation()
    return None


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
