"""What a run begins with: nothing, or the weights of a file, but for those that it skips."""

import fnmatch
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import nn

from machinery.checkpoints import left
from machinery.checkpoints.file import Content
from machinery.checkpoints.foreign import without_prefixes
from machinery.checkpoints.parts import Held
from machinery.checkpoints.untrained import MODEL, complete, networks_of, untrained
from machinery.checkpoints.weights import (
    differing_weights,
    load_weights,
    weights_of,
    weights_problems,
)
from machinery.config.checking import Checked
from machinery.errors import CheckpointError, ConfigError, UserError

State = dict[str, Any]
_logger = logging.getLogger("checkpoint")


class Position(NamedTuple):
    """How far a run that goes on had come."""

    epoch: int
    #: Batches done in an unfinished epoch; None after a finished one.
    step: int | None
    #: The learning rate of the last update.
    lr: float
    #: Whether the run was at its end.
    finished: bool
    #: Batches done before the epoch in hand, or altogether after a finished one.
    before: int
    #: Batches in an unfinished epoch; None: nobody knows, or there is none.
    batches: int | None
    #: How long the run has been trained.
    seconds: float = 0.0


class Start(ABC):
    """What a trainer starts from."""

    #: Whether a run begins with it.
    begins = False

    @abstractmethod
    def check_model(self, model: nn.Module) -> None:
        """Refuse weights that don't fit the model, before anything is loaded.

        Raises:
            CheckpointError: with the names that are missing, unexpected or of another shape.
        """

    @abstractmethod
    def restore(self, held: Held, made_of: State) -> Position | None:
        """Load what was saved; where the run stands, if it goes on.

        Args:
            made_of: the environment of this process.

        Raises:
            CheckpointError: something does not fit; nothing has been loaded then.
        """


class Afresh(Start):
    """From nothing."""

    begins = True

    def check_model(self, model: nn.Module) -> None:
        """Nothing can be wrong."""

    def restore(self, held: Held, made_of: State) -> Position | None:
        """Nothing is loaded."""
        return None


class FromFile(Start):
    """From a checkpoint file.

    Args:
        path, content: of the file.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self.path = path
        self.content = content

    def restore(self, held: Held, made_of: State) -> Position | None:
        """Load what was saved; where the run stands, if it goes on."""
        try:
            self.read_numbers(held)
            return self._restore(held, made_of)
        except UserError:
            raise
        except Exception as error:  # of a state that its owner cannot take
            first_line = str(error).partition("\n")[0]
            reason = f"{type(error).__name__}: {first_line}"
            raise CheckpointError(f"{self.path} cannot be restored: {reason}") from error

    def read_numbers(self, held: Held) -> None:
        """Read what several processes have left in a folder, now that there is who takes it."""
        self.content = left.read(self.path, self.content, networks_of(held), held.parts)

    @abstractmethod
    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load what was saved."""

    def strip_prefix(self, model: nn.Module) -> None:
        """Take the "module." off the names of weights that a DataParallel has put on."""
        weights = self.content["state_dict"]
        if not weights.keys() & model.state_dict().keys():
            stripped = {name.removeprefix("module."): value for name, value in weights.items()}
            self.content["state_dict"] = stripped

    def refuse(self, problems: list[str], advice: str = "") -> None:
        if problems:
            lines = [f"{self.path} does not fit the model:", *problems]
            raise CheckpointError("\n  ".join(lines) + advice)


class FineTuned(FromFile):
    """A new run that begins with the weights of a checkpoint, but for those in `arch.skip`."""

    begins = True

    def __init__(self, path: Path, content: Content, config: Checked) -> None:
        super().__init__(path, _averaged(path, content))
        self._config = config
        self._where = config.source.where(("arch", "skip"))
        self._skip: list[str] = []
        if config.settings.arch is not None:
            self._skip = config.settings.arch.skip

    def check_model(self, model: nn.Module) -> None:
        """Refuse weights that no run could begin with, or go on from."""
        made_again = set(self.content.get("frozen", {}).get(MODEL, {}))
        complete(self.content, {MODEL: model}, self.path)
        self.check_fits(model)
        given = self._without_skipped(self._saved(model.state_dict())).keys() - made_again
        if not given.isdisjoint(untrained(model)):
            self.refuse_to_leave_out()

    def refuse_to_leave_out(self) -> None:
        """Refuse weights that are not trained where the run's checkpoints leave these out."""
        if self._config.settings.trainer.save != "trained":
            return
        where = f"{self._config.source.where(('trainer', 'save'))}: trainer.save"
        what = f'"trained" leaves out weights that only {self.path} gives'
        raise ConfigError(f"{where}: {what}: name it as arch.weights, and leave out -r")

    def check_fits(self, model: nn.Module) -> None:
        """Refuse weights that don't fit and are not skipped, with the patterns that would help."""
        self.content = left.read_weights(self.path, self.content, model)
        weights = model.state_dict()
        saved = self._saved(weights)
        for pattern in self._skip:
            if not fnmatch.filter([*weights, *saved], pattern):
                raise ConfigError(f"{self._where}: arch.skip: {pattern!r} matches no weight")
        now = self._without_skipped(weights)
        before = self._without_skipped(saved)
        own = weights_of(model)._replace(values=now)
        differing = differing_weights(now, before, own.buffers)
        fitting = (now.keys() & before.keys()) - set(differing)
        if weights and not fitting and not own.adapts:
            self._refuse_others(weights, saved)
        problems = weights_problems(own, before, ordered=False)
        patterns = set(self._skip)
        for name in differing:
            module, dot, _ = name.rpartition(".")
            patterns.add(f"{module}.*" if dot else name)
        skip = json.dumps(sorted(patterns), ensure_ascii=False)
        self.refuse(problems, f'\n  to leave them out: "arch": {{"skip": {skip}}}')

    def _refuse_others(self, weights: State, saved: State) -> None:
        """Refuse weights of which none would be loaded."""
        lines = [f"{self.path} has no weight that the model could begin with"]
        for whose, named in (("the file's", saved), ("the model's", weights)):
            first = [f"{name} {list(value.shape)}" for name, value in [*named.items()][:4]]
            more = ", …" if len(named) > len(first) else ""
            lines.append(f"{whose}: {', '.join(first)}{more}")
        raise CheckpointError("\n  ".join(lines))

    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load the weights of the model, and nothing else."""
        complete(self.content, {MODEL: held.model}, self.path)
        self.load(held.model)
        return None

    def read_numbers(self, held: Held) -> None:
        """Of the weights alone, as `check_fits` has done, too."""
        self.content = left.read_weights(self.path, self.content, held.model)

    def is_of(self, model: nn.Module) -> bool:
        """Whether the weights have the names of a network's; some may be missing, or too many."""
        weights = model.state_dict()
        saved = self._without_skipped(self._saved(weights)).keys()
        names = self._without_skipped(weights).keys()
        return saved <= names or names <= saved

    def load(self, model: nn.Module) -> None:
        """Load the weights into a network that they fit, and tell it."""
        saved = self._saved(model.state_dict())
        weights = self._without_skipped(saved)
        load_weights(model, weights, strict=False)
        told = f"weights from {self.path}: {len(weights)}"
        if len(weights) < len(saved):
            told += f", {len(saved) - len(weights)} left out by arch.skip"
        prefix = self._prefix(saved)
        if prefix:
            told += f', their names without "{prefix}"'
        _logger.info(told)
        groups = self.content["optimizer"].get("param_groups", [])
        if any(group.get("train_mode") for group in groups):
            what = "its optimizer was training, and its eval() exchanges these weights for others"
            _logger.warning(f"{self.path}: {what}; a file from after an epoch has those")

    def _saved(self, weights: Mapping[str, Any]) -> State:
        """The saved weights, by the names that a network's weights have."""
        return without_prefixes(self.content["state_dict"], set(weights))

    def _prefix(self, renamed: State) -> str:
        """What the names of the saved weights have lost."""
        for name, now in zip(self.content["state_dict"], renamed, strict=True):
            if name != now:
                return name.removesuffix(now)
        return ""

    def _without_skipped(self, weights: Mapping[str, Any]) -> State:
        skipped: set[str] = set()
        for pattern in self._skip:
            skipped.update(fnmatch.filter(weights, pattern))
        return {name: value for name, value in weights.items() if name not in skipped}


def _averaged(path: Path, content: Content) -> Content:
    """What a checkpoint holds, with the average of its weights in their place, if it has one."""
    if content["classes"].get("ema") != "AveragedModel":
        return content
    prefix = "module."
    weights = {}
    for name, value in content["states"]["ema"].items():
        if name.startswith(prefix):
            weights[name.removeprefix(prefix)] = value
    left_out = {}
    for name, value in content.get("frozen", {}).get("ema", {}).items():
        left_out[name.removeprefix(prefix)] = value
    _logger.info(f"{path}: the average of its weights is taken, as trainer.ema has judged it")
    changed: dict[str, Any] = {"state_dict": weights, "frozen": {MODEL: left_out}}
    return cast(Content, {**content, **changed})
