"""What a process is to do."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from machinery.checkpoints.run import Run, Script
from machinery.config.checking import Checked
from machinery.config.source import Change
from machinery.files import ROOT

if TYPE_CHECKING:
    from machinery.checkpoints.restoring import Start


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
        """Whether the networks are made anew, and not read whole from a checkpoint."""
        return self.trains and not self.continues

    @property
    def new(self) -> bool:
        """Whether nobody has seen a batch of this run yet, or all is tried as if so."""
        return self.checking or not self.continues

    def continued(self, checkpoint: Path) -> "Launch":
        """The launch that goes on from another checkpoint of the run."""
        return replace(self, task="continue", checkpoint=checkpoint, _content=None)

    def start(self, config: Checked) -> "Start":
        """What a trainer starts from: nothing, or the checkpoint as the task wants it.

        Args:
            config: as it is now.
        """
        from machinery.checkpoints.restoring import start_of

        return start_of(self.task, self.checkpoint, self.content(), config, self.changes)

    def start_from(self, checkpoint: Path, content: Any) -> None:
        """Start from a checkpoint that has been read."""
        self.checkpoint = checkpoint
        self._content = content

    def start_anew(self) -> None:
        """Start a new run after all, from no checkpoint."""
        self.task = "train"
        self.run = None
        self.checkpoint = None
        self._content = None

    def content(self) -> Any:
        """What the checkpoint holds, read at the first call; None without one."""
        if self._content is None and self.checkpoint is not None:
            self._content = self.read(self.checkpoint)
        return self._content

    def read(self, path: Path) -> Any:
        """What a file holds: a checkpoint, or weights of another program that a run begins with.

        Raises:
            CheckpointError: it cannot be read.
        """
        from machinery.checkpoints import foreign

        return foreign.read(path, any_weights=self.fine_tunes)

    def release(self) -> None:
        """Let the content go: it has been restored, and is as large as the model."""
        self._content = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_content": None}
