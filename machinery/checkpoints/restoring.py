"""What a trainer starts from, and how a checkpoint goes back into it: all of it, or nothing.

There are four ways to start; which one it is, `start_of` decides once.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from torch import nn

from machinery import distributed
from machinery.checkpoints import environment, foreign
from machinery.checkpoints.changes import apply_changes, changes, check_fixed
from machinery.checkpoints.file import Content
from machinery.checkpoints.fitting import part_problems
from machinery.checkpoints.judging import judge_anew
from machinery.checkpoints.parts import LEFT_OUT, STANDING, Held, load_state
from machinery.checkpoints.starts import Afresh, FineTuned, FromFile, Position, Start
from machinery.checkpoints.structure import structure
from machinery.checkpoints.untrained import complete, networks_of
from machinery.checkpoints.weights import (
    load_weights,
    mismatches,
    weights_of,
    weights_problems,
)
from machinery.config.checking import Checked
from machinery.errors import CheckpointError, ConfigError
from machinery.order.bare import BareIteration
from machinery.update.runtime import kind_of

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


def _effect(line: str, samples: int | None) -> str:
    """What a difference of the environment may come to.

    Args:
        line: the difference.
        samples: of the training data; 0: it is iterable.
    """
    if line.startswith(("data ", "git_")):
        return f"may differ: {line}"
    if line.startswith("processes ") and samples == 0:
        return f"has other updates: {line}, each with batch_size samples of its iterable data"
    return f"may differ in the last bits: {line}"


def read(path: Path, any_weights: bool, mmap: bool = False, known: bool = False) -> Content:
    """What a file holds: a checkpoint, or weights of another program if `any_weights` will do.

    Args:
        mmap: leave the tensors in the file until they are used; a folder's are read in `restore`.
        known: another process of this machine has found it whole just now.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return foreign.read(path, any_weights, mmap, known)
    except OSError as error:  # it is there, and cannot be read
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def begin_with(file: Path, config: Checked, model: nn.Module) -> None:
    """Give a network the weights of a file that `arch.weights` names.

    Raises:
        ConfigError: it cannot be read, or they do not fit.
    """
    try:
        content = read(file, any_weights=True, mmap=not distributed.alone())
        start = FineTuned(file, content, config)
        start.check_fits(model)
        start.load(model)
    except CheckpointError as error:
        where = f"{config.source.where(('arch', 'weights'))}: arch.weights"
        raise ConfigError(f"{where}: {error}") from error


def begin_below_adapter(start: Start, model: nn.Module) -> bool:
    """Give a network the weights of a checkpoint, unless they are of one with an adapter.

    Args:
        start: of a run that begins with them.
        model: which an adapter will be put around.

    Returns:
        whether they were of one without.

    Raises:
        CheckpointError: they do not fit.
        ConfigError: no checkpoint of the run would hold them.
    """
    assert isinstance(start, FineTuned)
    if not start.is_of(model):
        return False
    start.refuse_to_leave_out()
    start.check_fits(model)
    start.load(model)
    return True


class _WithParts(FromFile):
    """From a checkpoint whose other parts count, too."""

    #: Whether weights have to be in the same order, for the sake of an optimizer's state.
    ordered: bool

    def check_model(self, model: nn.Module) -> None:
        """Nothing is made before weights are loaded: a trainer may change its model until then."""

    def _check_weights(self, model: nn.Module) -> None:
        """Refuse weights of another network."""
        self.strip_prefix(model)
        saved = self.content["state_dict"]
        problems = weights_problems(weights_of(model), saved, self.ordered)
        arch = kind_of(model).__name__
        if self.content["arch"] != arch:
            problems.insert(0, f"arch {self.content['arch']} -> {arch}")
        advice = ""
        network = self.content["config"].get("arch")
        if isinstance(network, dict) and network.get("starting_args"):
            what = "arch.starting_args are left out here"
            advice = f"\n  {what}: what shapes the network stands in arch.args"
        self.refuse(problems, advice)

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
        complete(self.content, networks_of(held), self.path)
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
        now = self._config.values
        before = content["config"]
        if content.get("converted"):
            before = now
        check_fixed({**before, **self._seed(now)}, now)
        complete(content, networks_of(held), self.path)
        parts = self._known_parts(held)
        self._check_parts(held, parts)
        self._check_structures()
        self._check_fixed(held.fixed)
        position = self._position(held.fixed["batches"])
        for line in environment.differences(content["environment"], made_of):
            _logger.warning(f"the continued run {_effect(line, held.fixed['samples'])}")
        optimizer = held.parts["optimizer"]
        scheduler = held.parts.get("lr_scheduler")
        found = changes(optimizer, scheduler, content["optimizer"], before, now)
        self._load(held, parts)
        apply_changes(found, optimizer, scheduler)
        _warn_of_no_rate(optimizer)
        data = (content["environment"].get("data"), made_of.get("data"))
        judge_anew(parts, before, now, data)
        for key, old, new in self._changed:
            _logger.info(f"{key} {_shown(old)} -> {_shown(new)}")
        return position

    def _seed(self, now: Mapping[str, Any]) -> dict[str, Any]:
        """The seed of the run, as far as a config says it: it may have had it by default."""
        seed = cast(State, self.content["progress"]).get("seed")
        if now.get("seed") is None or seed is None:
            return {"seed": now.get("seed")}
        return {"seed": seed}

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
        seconds = progress.get("seconds", 0.0)
        return Position(epoch, step, progress["lr"], progress["finished"], before, batches, seconds)

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
        _drop_what_is_new(known, states)
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


def _warn_of_no_rate(optimizer: Any) -> None:
    """Say that nothing is learnt, as where a schedule of a fixed length is at its end."""
    rates = [group.get("lr") for group in getattr(optimizer, "param_groups", [])]
    if rates and all(rate == 0 for rate in rates):  # None: it has no rate
        what = "the learning rate is 0 here: the weights stay as they are until lr_scheduler"
        _logger.warning(f"{what} raises it, and at the end of a schedule it never does")


def _drop_what_is_new(known: dict[str, Any], states: dict[str, State]) -> None:
    """Begin afresh where only one knows what was left out, or where a stream stands.

    Both may be set, and taken back.
    """
    for name in (LEFT_OUT, STANDING):
        if name not in known or name not in states:
            known.pop(name, None)
            states.pop(name, None)


def _shown(value: Any) -> str:
    """A value of a config as people write it."""
    if isinstance(value, str):
        return value
    return json.dumps(value)
