"""Whether a continued run judges its epochs by another number, or on other data, than before."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from machinery import secrets

Config = Mapping[str, Any]


def judge_anew(
    parts: Mapping[str, Any], before: Config, now: Config, data: tuple[Any, Any]
) -> None:
    """Forget the best value so far where the epochs to come cannot be compared with it.

    Args:
        parts: of the trainer, by name; the monitor and the scheduler, which a plateau steps, judge.
        before, now: the configs; a record has no secrets.
        data: the fingerprints of the training data, then and now, of which a part is held out.
    """
    changed = _changed(secrets.masked(before), secrets.masked(now), data)
    if not changed:
        return
    scheduler = parts.get("lr_scheduler")
    if isinstance(scheduler, ReduceLROnPlateau):
        scheduler.best = math.inf
        if scheduler.mode == "max":
            scheduler.best = -math.inf
        scheduler.num_bad_epochs = 0
    if "monitor" in parts:  # a converted checkpoint has none
        parts["monitor"].forget()
    what = f"{', '.join(changed)} changed"
    logging.getLogger("trainer").info(f"{what}: epochs are judged anew, the best so far is left")


def _changed(before: Config, now: Config, data: tuple[Any, Any]) -> list[str]:
    """What says otherwise how epochs are judged."""
    if None in data:  # nobody can tell
        data = (None, None)
    old = _judging(before, data[0])
    new = _judging(now, data[1])
    changed = [key for key in new if old.get(key) != new[key]]
    if "trainer.monitor" in changed:  # another number is of another key, too
        changed = [key for key in changed if key in old]
    return changed


def _judging(config: Config, data: Any) -> dict[str, Any]:
    """What says by which number epochs are judged, and on which data."""
    monitor = config.get("trainer", {}).get("monitor", "off")
    name = _without_set(monitor.rpartition(" ")[2], config.get("valid_data_loader"))
    numbers = {"loss": config.get("loss")}
    for metric in config.get("metrics") or []:
        numbers[_name_of(metric)] = metric
    judged_by = name
    if name not in numbers:  # of the trainer's own, or none
        judged_by = "loss"
    return {
        "trainer.monitor": monitor,
        judged_by: numbers[judged_by],
        "the validation data": config.get("valid_data_loader") or data,
    }


def _without_set(name: str, valid: Any) -> str:
    """What a number is called in training: without the validation set, or a part of a metric."""
    prefixes = ["val_"]
    if isinstance(valid, Mapping):
        prefixes = [f"val_{key}_" for key in valid] + prefixes
    for prefix in prefixes:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name.partition("/")[0]


def _name_of(metric: Any) -> str:
    """The name of a metric in the logs."""
    if not isinstance(metric, Mapping):
        metric = {"type": metric}
    return str(metric.get("name") or metric["type"].rpartition(".")[2])
