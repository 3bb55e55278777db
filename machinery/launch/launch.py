"""What a process is to do."""

import argparse
import logging
import platform
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run, Script
from machinery.config.checking import Checked
from machinery.config.source import Change
from machinery.errors import CheckpointError, ConfigError
from machinery.files import ROOT

if TYPE_CHECKING:
    from machinery.checkpoints.starts import Start


@dataclass
class Launch:
    """What a process is to do; decided before there is a `ConfigParser`.

    Copies for other processes read the checkpoint themselves.
    """

    task: Literal["train", "continue", "fine-tune", "evaluate"] = "train"
    #: Try everything on one batch only; then nothing that is written stays.
    checking: bool = False
    #: The checkpoint to start from.
    checkpoint: Path | None = None
    #: The run to go on in.
    run: Run | None = None
    #: The name of a new run's folder; None is the time.
    run_id: str | None = None
    #: What differs from the config of the checkpoint.
    changes: list[Change] = field(default_factory=list)
    #: The parsed command line, if there was one.
    args: argparse.Namespace = field(default_factory=argparse.Namespace)
    #: The training script: the one that was started, or the template's.
    script: Path = ROOT / "train.py"
    #: What was typed of the script's own options, and whether it takes `--set`.
    own_words: list[str] = field(default_factory=list)
    takes_set: bool = True
    _content: Any = None
    #: The machine on which the checkpoint has been read: its other processes need not hash it.
    _read_on: str = ""
    #: Whether the checkpoint has all weights of its networks; None: nobody knows yet.
    _whole: bool | None = None
    #: Whether the network has been built that `arch` names, and has got the checkpoint's weights.
    _built: bool = False
    _given: bool = False

    @property
    def typed(self) -> Script:
        """The training script, as it is to be started again."""
        return Script(self.script, self.own_words, self.takes_set)

    @property
    def trains(self) -> bool:
        """Whether weights are trained and a run is written, rather than a checkpoint evaluated."""
        return self.task != "evaluate"

    @property
    def continues(self) -> bool:
        """Whether the checkpoint's run goes on, with all its states, in its folder.

        Where one is only `checking`, that folder stays as it is.
        """
        return self.task == "continue"

    @property
    def goes_on_from(self) -> Path | None:
        """The checkpoint whose run goes on; None where another begins, or none is trained."""
        if self.continues:
            return self.checkpoint
        return None

    @property
    def fine_tunes(self) -> bool:
        """Whether a new run takes the weights of the checkpoint, and nothing else."""
        return self.task == "fine-tune"

    @property
    def begins(self) -> bool:
        """Whether a run begins, and goes on from no checkpoint."""
        return self.trains and not self.continues

    @property
    def makes_weights(self) -> bool:
        """Whether the networks are made anew, and not read whole from a checkpoint."""
        return self.begins or not self._is_whole()

    @property
    def new(self) -> bool:
        """Whether nobody has seen a batch of this run yet, or all is tried as if so."""
        return self.checking or not self.continues

    def continued(self, checkpoint: Path) -> "Launch":
        """The launch that goes on from another checkpoint of the run."""
        fresh: dict[str, Any] = {"_content": None, "_read_on": "", "_whole": None, "_given": False}
        return replace(self, task="continue", checkpoint=checkpoint, **fresh)

    def starting_weights(self, config: Checked) -> Path | None:
        """The file of `arch.weights`, where it is needed.

        Raises:
            ConfigError: it is not there, and a run would begin with it.
            CheckpointError: it is not there, and the checkpoint leaves out what it holds.
        """
        arch = config.settings.arch
        if arch is None or arch.weights is None or not self.makes_weights:
            return None
        if self.fine_tunes and self._is_whole():
            return None
        file = config.weights_file()
        if file is None or run_folder.may_be_one(file):
            return file
        where = config.source.where(("arch", "weights"))
        if self._is_whole():
            raise ConfigError(f"{where}: arch.weights: {run_folder.not_there(file)}")
        what = f"the weights that are not trained come from arch.weights: {file}"
        raise CheckpointError(
            f"{where}: {what}, which is missing: --set arch.weights=FILE names it"
        )

    def fill(self, model: Any, config: Checked) -> None:
        """Give a network that has just been built the weights that it begins with.

        They are those of `arch.weights`; or of the checkpoint, where an adapter is yet to come
        around the network. One that has been built without numbers gets its own before.

        Raises:
            ConfigError: they are not there, or do not fit.
            CheckpointError: those of the checkpoint do not.
        """
        from machinery.checkpoints import restoring
        from machinery.update.networks import initialise

        self._built = True
        arch = config.settings.arch
        if arch is None:
            return
        if arch.init == "by_name":
            initialise(model, config, self.trains)
        file = self.starting_weights(config)
        if file is not None:
            restoring.begin_with(file, config, model)
        if not self.fine_tunes or not self._is_whole():
            return
        if arch.weights is not None:
            what = f"arch.weights is not read: the weights are those of {self.checkpoint}"
            logging.getLogger("checkpoint").info(what)
        if arch.adapter is not None:
            start = self._start(config)
            self._given = restoring.begin_below_adapter(start, model)

    def start(self, config: Checked) -> "Start":
        """What a trainer starts from: nothing, or the checkpoint as the task wants it.

        Args:
            config: as it is now.

        Raises:
            ConfigError: the network has been built without the weights that it begins with.
        """
        from machinery.checkpoints.starts import Afresh

        if not self._built:
            self._refuse_unread(config)
        if self._given:
            return Afresh()
        return self._start(config)

    def _refuse_unread(self, config: Checked) -> None:
        """Refuse a network that nobody has built as the config says."""
        key = ""
        if config.settings.arch is not None and config.settings.arch.adapter is not None:
            key = "adapter"
        if self.starting_weights(config) is not None:
            key = "weights"
        if key:
            where = f"{config.source.where(('arch', key))}: arch.{key}"
            what = 'nothing has read it: config.init_obj("arch", …) does, and builds the network'
            raise ConfigError(f"{where}: {what}")

    def _start(self, config: Checked) -> "Start":
        from machinery.checkpoints.restoring import start_of

        return start_of(self.task, self.checkpoint, self.content(), config, self.changes)

    def start_from(self, checkpoint: Path, content: Any) -> None:
        """Start from a checkpoint that has been read."""
        self.checkpoint = checkpoint
        self._keep(content)

    def _keep(self, content: Any) -> None:
        self._content = content
        self._read_on = platform.node()
        self._whole = not content.get("frozen")

    def _is_whole(self) -> bool:
        """Whether the checkpoint has all weights of its networks; so has none at all."""
        if self._whole is None and self.checkpoint is not None:
            self.content()
        return self._whole is not False

    def start_anew(self) -> None:
        """Start a new run after all, from no checkpoint."""
        self.task = "train"
        self.run = None
        self.checkpoint = None
        self._content = None
        self._read_on = ""
        self._whole = None

    def content(self) -> Any:
        """What the checkpoint holds, read at the first call; None without one."""
        if self._content is None and self.checkpoint is not None:
            self._keep(self.read(self.checkpoint))
        return self._content

    def read(self, path: Path) -> Any:
        """What a file holds: a checkpoint, or weights of another program that a run begins with.

        Raises:
            CheckpointError: it cannot be read.
        """
        from machinery.checkpoints import restoring

        # Of several processes, each would have it all in its own memory.
        mmap = not distributed.alone()
        known = path == self.checkpoint and self._read_on == platform.node()
        return restoring.read(path, self.fine_tunes, mmap, known)

    def release(self) -> None:
        """Let the content go: it has been restored, and is as large as the model."""
        self._content = None
        self._read_on = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_content": None}
