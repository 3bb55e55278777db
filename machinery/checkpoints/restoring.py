"""What a trainer starts from, and how a checkpoint goes back into it: all of it, or nothing.

There are four ways to start; which one it is, `start_of` decides once.
"""

import fnmatch
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from torch import nn

from machinery.checkpoints import environment
from machinery.checkpoints.changes import apply_changes, changes
from machinery.checkpoints.file import Content
from machinery.checkpoints.fitting import part_problems
from machinery.checkpoints.foreign import without_prefixes
from machinery.checkpoints.judging import judge_anew
from machinery.checkpoints.parts import Held, load_state
from machinery.checkpoints.structure import structure
from machinery.checkpoints.weights import (
    differing_weights,
    load_weights,
    mismatches,
    weights_of,
    weights_problems,
)
from machinery.config.checking import Checked
from machinery.errors import CheckpointError, ConfigError, UserError
from machinery.order.bare import BareIteration

State = dict[str, Any]
_logger = logging.getLogger("checkpoint")
#: What may be another between two epochs.
_FREE_BETWEEN_EPOCHS = (
    "batch_size",
    "accumulate",
    "batches",
    "shuffle",
    "metrics",
    "weights",
    "batch_by",
    "lengths",
)


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


def start_of(
    task: Literal["train", "continue", "fine-tune", "evaluate"],
    path: Path | None,
    content: Content | None,
    config: Checked,
    changed: Sequence[tuple[str, Any, Any]],
) -> Start:
    """What a trainer starts from.

    Args:
        path, content: the checkpoint, if there is one.
        config: as it is now.
        changed: what differs from the config of the checkpoint: dotted key, old and new value.
    """
    if path is None or content is None:
        return Afresh()
    if task == "fine-tune":
        return FineTuned(path, content, config)
    if task == "continue":
        return Continued(path, content, config, changed)
    return Evaluated(path, content)


class Afresh(Start):
    """From nothing."""

    begins = True

    def check_model(self, model: nn.Module) -> None:
        """Nothing can be wrong."""

    def restore(self, held: Held, made_of: State) -> Position | None:
        """Nothing is loaded."""
        return None


class _FromFile(Start):
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
            return self._restore(held, made_of)
        except UserError:
            raise
        except Exception as error:  # of a state that its owner cannot take
            first_line = str(error).partition("\n")[0]
            reason = f"{type(error).__name__}: {first_line}"
            raise CheckpointError(f"{self.path} cannot be restored: {reason}") from error

    @abstractmethod
    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load what was saved."""

    def _strip_prefix(self, model: nn.Module) -> None:
        """Take the "module." off the names of weights that a DataParallel has put on."""
        weights = self.content["state_dict"]
        if not weights.keys() & model.state_dict().keys():
            stripped = {name.removeprefix("module."): value for name, value in weights.items()}
            self.content["state_dict"] = stripped

    def _refuse(self, problems: list[str], advice: str = "") -> None:
        if problems:
            lines = [f"{self.path} does not fit the model:", *problems]
            raise CheckpointError("\n  ".join(lines) + advice)


class FineTuned(_FromFile):
    """A new run that begins with the weights of a checkpoint, but for those in `arch.skip`."""

    begins = True

    def __init__(self, path: Path, content: Content, config: Checked) -> None:
        super().__init__(path, content)
        self._where = config.source.where(("arch", "skip"))
        self._skip: list[str] = []
        if config.settings.arch is not None:
            self._skip = config.settings.arch.skip

    def check_model(self, model: nn.Module) -> None:
        """Refuse weights that don't fit and are not skipped, with the patterns that would help."""
        weights = model.state_dict()
        saved = self._saved(weights)
        for pattern in self._skip:
            if not fnmatch.filter([*weights, *saved], pattern):
                raise ConfigError(f"{self._where}: arch.skip: {pattern!r} matches no weight")
        now = self._without_skipped(weights)
        before = self._without_skipped(saved)
        own = weights_of(model)._replace(values=now)
        problems = weights_problems(own, before, ordered=False)
        patterns = set(self._skip)
        for name in differing_weights(now, before, own.buffers):
            module, dot, _ = name.rpartition(".")
            patterns.add(f"{module}.*" if dot else name)
        skip = json.dumps(sorted(patterns), ensure_ascii=False)
        self._refuse(problems, f'\n  to leave them out: "arch": {{"skip": {skip}}}')

    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load the weights of the model, and nothing else."""
        saved = self._saved(held.model.state_dict())
        weights = self._without_skipped(saved)
        load_weights(held.model, weights, strict=False)
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
        return None

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


class _WithParts(_FromFile):
    """From a checkpoint whose other parts count, too."""

    #: Whether weights have to be in the same order, for the sake of an optimizer's state.
    ordered: bool

    def check_model(self, model: nn.Module) -> None:
        """Nothing is made before weights are loaded: a trainer may change its model until then."""

    def _check_weights(self, model: nn.Module) -> None:
        """Refuse weights of another network."""
        self._strip_prefix(model)
        saved = self.content["state_dict"]
        problems = weights_problems(weights_of(model), saved, self.ordered)
        arch = type(model).__name__
        if self.content["arch"] != arch:
            problems.insert(0, f"arch {self.content['arch']} -> {arch}")
        self._refuse(problems)

    def _states(self) -> dict[str, State]:
        """The saved states of all parts, by name."""
        return {**self.content["states"], "optimizer": self.content["optimizer"]}

    def _check_parts(self, held: Held, parts: Mapping[str, Any]) -> None:
        """Refuse weights that the model cannot take, and states that parts cannot."""
        self._check_weights(held.model)
        problems = []
        states = self._states()
        for name, part in parts.items():
            saved_class = self.content["classes"].get(name)
            problems += part_problems(name, part, saved_class, states[name])
        if problems:
            raise CheckpointError("\n  ".join([f"{self.path} does not fit:", *problems]))

    def _load(self, held: Held, parts: Mapping[str, Any]) -> None:
        states = self._states()
        load_weights(held.model, self.content["state_dict"])
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                load_weights(part, states[name])
            else:
                load_state(part, states[name])


class Evaluated(_WithParts):
    """The networks of a checkpoint; progress doesn't matter, nor do optimizers without modes."""

    ordered = False

    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load all networks."""
        states = self._states()
        parts = {}
        fresh = []
        # Inside an epoch, they hold what makes the weights that are evaluated.
        with_modes = {id(optimizer) for optimizer in held.with_modes}
        for name, part in held.parts.items():
            if name in states and id(part) in with_modes:
                parts[name] = part
            if not isinstance(part, nn.Module):
                continue
            if name in states:
                parts[name] = part
            elif list(part.parameters()):
                fresh.append(name)
        if fresh:
            without = f"no weights of {', '.join(fresh)}: it was trained without"
            raise CheckpointError(f"{self.path} holds {without}")
        self._check_parts(held, parts)
        self._load(held, parts)
        return None


class Continued(_WithParts):
    """A run that goes on where its checkpoint was saved."""

    ordered = True

    def __init__(
        self,
        path: Path,
        content: Content,
        config: Checked,
        changed: Sequence[tuple[str, Any, Any]],
    ) -> None:
        super().__init__(path, content)
        self._config = config
        self._changed = changed

    def _restore(self, held: Held, made_of: State) -> Position | None:
        """Load everything; where the run stands."""
        content = self.content
        parts = self._known_parts(held)
        self._check_parts(held, parts)
        self._check_structures()
        self._check_fixed(held.fixed)
        position = self._position(held.fixed["batches"])
        for line in environment.differences(content["environment"], made_of):
            bits = " in the last bits"
            if line.startswith("data "):
                bits = ""
            _logger.warning(f"the continued run may differ{bits}: {line}")
        optimizer = held.parts["optimizer"]
        scheduler = held.parts.get("lr_scheduler")
        now = self._config.values
        before = content["config"]
        if content.get("converted"):
            before = now
        found = changes(optimizer, scheduler, content["optimizer"], before, now)
        self._load(held, parts)
        apply_changes(found, optimizer, scheduler)
        data = (content["environment"].get("data"), made_of.get("data"))
        judge_anew(parts, before, now, data)
        for key, old, new in self._changed:
            _logger.info(f"{key} {_shown(old)} -> {_shown(new)}")
        return position

    def _position(self, length: int) -> Position:
        """Where the run stands.

        Args:
            length: of the epochs of a checkpoint that doesn't say it, as earlier ones don't.

        Raises:
            CheckpointError: further in an epoch than that is long.
        """
        progress = cast(State, self.content["progress"])
        epoch = self.content["epoch"]
        step = progress["step"]
        length = progress.get("batches") or length
        epochs_done = epoch
        batches = None
        if step is not None:
            epochs_done = epoch - 1
            batches = progress.get("in_epoch") or None
            if 0 < (batches or length) < step:
                where = f"{step} batches into an epoch of {batches or length}"
                raise CheckpointError(f"{self.path} is {where}")
        before = progress.get("before", epochs_done * max(length, 1))
        return Position(epoch, step, progress["lr"], progress["finished"], before, batches)

    def _known_parts(self, held: Held) -> dict[str, Any]:
        """The parts that have a saved state: all of them, but for a converted checkpoint."""
        states = self._states()
        if self.content.get("converted"):
            fresh = ", ".join(name for name in held.parts if name not in states)
            what = f"{self.path} was converted from the classic template"
            _logger.warning(f"{what}: these start afresh: {fresh}")
            return {name: part for name, part in held.parts.items() if name in states}
        if "optimizer" not in held.parts:  # of an own class that has no state
            del states["optimizer"]
        known = dict(held.parts)
        for name, part in held.parts.items():  # loaders had no state in earlier checkpoints
            if isinstance(part, BareIteration) and name not in states:
                _logger.warning(f"{self.path} has no place of {name}: it begins a new pass")
                del known[name]
        problems = mismatches(dict.fromkeys(known), dict.fromkeys(states))
        if problems:
            lines = [f"{self.path} holds other parts than this trainer:", *problems]
            raise CheckpointError("\n  ".join(lines))
        return known

    def _check_structures(self) -> None:
        """Refuse states that are not as they were saved."""
        states = self._states()
        changed = []
        for name, saved in self.content.get("structures", {}).items():
            if name not in states or structure(states[name]) != saved:
                changed.append(name)
        if changed:
            what = "other keys, types or shapes than were saved"
            raise CheckpointError(f"{self.path}: the states of {', '.join(changed)} have {what}")

    def _check_fixed(self, fixed: State) -> None:
        """Refuse what would silently train on other data."""
        saved = cast(State, self.content["progress"])
        between_epochs = saved["step"] is None
        other = []
        for name, value in fixed.items():
            if between_epochs and name in _FREE_BETWEEN_EPOCHS:
                continue
            if name in saved and saved[name] != value:
                other.append(f"{name} {saved[name]} -> {value}")
        if between_epochs:
            self._warn_of_batches(saved.get("batches"), fixed["batches"])
        if other:
            raise CheckpointError(f"{self.path} cannot be continued with {'; '.join(other)}")

    def _warn_of_batches(self, before: int | None, now: int) -> None:
        """Epochs of another length begin at another batch of the data."""
        if not before or not now or before == now:
            return
        if self._config.settings.trainer.len_epoch is None:
            return
        epoch = self.content["epoch"]
        begins = f"epoch {epoch + 1} begins at batch {epoch * now} of the data"
        _logger.warning(f"{before} -> {now} batches in an epoch: {begins}, not at {epoch * before}")


def _shown(value: Any) -> str:
    """A value of a config as people write it."""
    if isinstance(value, str):
        return value
    return json.dumps(value)
