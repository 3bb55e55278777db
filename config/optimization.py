"""Builds the scheduler, with the lengths that only the program knows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from parse_config import ConfigParser


def init_scheduler(config: "ConfigParser", optimizer: "torch.optim.Optimizer", batches: int) -> Any:
    """The learning-rate scheduler of the config, or None.

    A OneCycleLR that says nothing of its length gets that of the run (`total_steps`).

    Args:
        batches: in one pass over the training data.
    """
    import torch

    component, settings = config["lr_scheduler"], config["trainer"]
    lengths = {}
    if component is not None and component["type"] == "OneCycleLR":
        if not {"total_steps", "epochs", "steps_per_epoch"} & component["args"].keys():
            updates = -(-(settings["len_epoch"] or batches) // settings["accumulate"])
            lengths["total_steps"] = settings["epochs"] * (updates if component["interval"] == "step" else 1)
    return config.init_obj("lr_scheduler", torch.optim.lr_scheduler, optimizer, **lengths)
