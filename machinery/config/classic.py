"""What configs of classic projects say otherwise than ours, and what it means here.

A script of such a project reads its config itself, so whatever it says may have a meaning of its
own; for what this template reads of it the classic's own code is the measure.
"""

import copy
import logging
import re
from typing import Any, ClassVar, NamedTuple, TypeGuard

from pydantic import ValidationError

from machinery.config.schema import Config
from machinery.config.settings import gpus_in
from machinery.config.source import Source, dotted
from machinery.config.values import KeyPath, in_words

#: The keys of the trainer that the classic template itself reads; of others, and of other sections,
#: a script has what it has written.
_OF_TRAINER = (
    "epochs",
    "save_dir",
    "save_period",
    "verbosity",
    "monitor",
    "early_stop",
    "tensorboard",
)
#: The folder of the runs of a config without a name.
_UNNAMED = "unnamed"


class ClassicNames:
    """What the classic's ConfigParser has besides, under its names."""

    launch: Any
    config: Any
    save_dir: Any
    log_dir: Any
    #: The levels of logging, by verbosity.
    log_levels: ClassVar = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}

    @property
    def args(self) -> Any:
        """The parsed command line."""
        return self.launch.args

    @property
    def _config(self) -> Any:
        return self.config

    @property
    def _save_dir(self) -> Any:
        return self.save_dir

    @property
    def _log_dir(self) -> Any:
        return self.log_dir


class Eased(NamedTuple):
    """A config as the classic template takes it."""

    #: To be checked against the schema.
    values: dict[str, Any]
    #: What of it means something else here, each with its place.
    notes: list[str]


class _Easing:
    """Takes values as the classic's code takes them, one after the other."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.values = copy.deepcopy(source.values)
        self.notes: list[str] = []

    def set(self, path: KeyPath, value: Any, meaning: str) -> None:
        """Let a value stand for another, and say what it means."""
        section = self._section(path)
        found = section[path[-1]]
        section[path[-1]] = value
        self.note(path, f"{in_words(found)} {meaning}")

    def drop(self, path: KeyPath, what: str) -> None:
        """Take a value away that is the script's alone."""
        del self._section(path)[path[-1]]
        self.note(path, f"{what}: only code of your own reads it")

    def note(self, path: KeyPath, what: str) -> None:
        """Note what a value means."""
        self.notes.append(f"{self.source.where(path)}: {dotted(path)}: {what}")

    def _section(self, path: KeyPath) -> Any:
        section: Any = self.values
        for key in path[:-1]:
            section = section[key]
        return section


def eased(source: Source) -> Eased:
    """The values of a config of a classic project as this template can take them."""
    easing = _Easing(source)
    _ease_name(easing)
    _ease_gpus(easing)
    trainer = easing.values.get("trainer")
    if isinstance(trainer, dict):
        _ease_trainer(easing, trainer)
    _drop_own(easing)
    return Eased(easing.values, easing.notes)


def _ease_name(easing: _Easing) -> None:
    """The classic's run folders are below saved/models/NAME, whatever path that is."""
    name = easing.values.get("name")
    if name == "":
        easing.set(("name",), _UNNAMED, f"names no folder: the runs are in {_UNNAMED}")
    elif isinstance(name, str) and "/" in name.strip("/"):
        flat = re.sub("/+", "-", name.strip("/"))
        easing.set(("name",), flat, f"would be several folders: the runs are in {flat}")


def _ease_gpus(easing: _Easing) -> None:
    """Whoever lists GPUs wants as many."""
    given = easing.values.get("n_gpu")
    if isinstance(given, str | list):
        count = gpus_in(given)
        easing.set(("n_gpu",), count, f"asks for {count}; -d says which")
    elif type(given) is int and given < 0:
        easing.set(("n_gpu",), 0, "asks for none")


def _ease_trainer(easing: _Easing, given: dict[str, Any]) -> None:
    """Settings that the classic's code takes by their sign, or by whether they are true."""
    patience = given.get("early_stop")
    if patience is False or _is_below_zero(patience):
        easing.set(("trainer", "early_stop"), None, "is no patience: the run never stops early")
    _ease_monitor(easing, given)
    period = given.get("save_period")
    if _is_below_zero(period):
        counted = f"epochs that {-period} divides, as in the classic template"
        if period == -1:
            counted = "every epoch, as in the classic template"
        easing.set(("trainer", "save_period"), -period, f"saves {counted}")
    for key in ("tensorboard", "tensorboardX"):
        if type(given.get(key)) in (int, str):
            wanted = bool(given[key])
            easing.set(("trainer", key), wanted, f"counts as {in_words(wanted)}")
    for key in ("epochs", "save_period", "early_stop"):
        value = given.get(key)
        if isinstance(value, float) and value.is_integer():
            given[key] = int(value)


def _ease_monitor(easing: _Easing, given: dict[str, Any]) -> None:
    """Older versions of the classic template have the mode in a key of its own."""
    name = given.get("monitor")
    mode = given.get("monitor_mode")
    if not isinstance(name, str) or len(name.split()) != 1 or name == "off":
        return
    if mode == "off":
        easing.set(("trainer", "monitor"), "off", "is not monitored, as monitor_mode is off")
    elif mode in ("min", "max"):
        both = f"{mode} {name}"
        easing.set(("trainer", "monitor"), both, f"with monitor_mode is {both}")


def _is_below_zero(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and value < 0


def _drop_own(easing: _Easing) -> None:
    """Leave out what the schema has no place for, where the classic template has not read it."""
    try:
        Config.model_validate(easing.values)
    except ValidationError as error:
        places = [_own_place(easing.values, tuple(problem["loc"])) for problem in error.errors()]
        for path in dict.fromkeys(places):
            if path:
                easing.drop(path, "none of the values that this template knows")


def _own_place(values: dict[str, Any], location: KeyPath) -> KeyPath:
    """The key path of a value that is the script's own; empty if this template reads it, too.

    Args:
        location: as pydantic names it.
    """
    if not location:  # a key that is no text
        return ()
    section = location[0]
    if section == "trainer" and len(location) > 1 and location[1] not in _OF_TRAINER:
        return location[:2]
    if section in ("trainer", "name", "n_gpu") or section not in values:
        return ()
    given = values[str(section)]
    items = [given]
    if section == "metrics" and isinstance(given, list):
        items = given
    if len(location) == 1 or not all(isinstance(item, str | dict) for item in items):
        return location[:1]
    return ()
