"""The commands that a run prints, as they can be typed."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from machinery.files import ROOT, shown, shown_command


class Script(NamedTuple):
    """A training script, and how its command line is written."""

    path: Path
    #: What was typed of its own options, those that it requires among it.
    own: Sequence[str] = ()
    #: Whether it takes `--set`; one that parses its arguments itself does not.
    takes_set: bool = True

    def goes_on(self, checkpoint: Path, options: Sequence[str]) -> str:
        """The command that continues a run, with what it has to set.

        Args:
            checkpoint: of the run.
            options: `--set KEY=VALUE`, several times.
        """
        if self.takes_set:
            return shown_command(self.path, "-r", checkpoint, *options, *self.own)
        command = shown_command(self.path, "-r", checkpoint, *self.own)
        settings = ", ".join(_settings(options))
        if not settings:
            return command
        return f"with {settings} in {shown(checkpoint.parent / 'config.json')}: {command}"


def _settings(options: Sequence[str]) -> Iterator[str]:
    """What `--set` sets."""
    for before, word in itertools.pairwise(options):
        if before == "--set":
            yield word


def to_test(checkpoint: Path, words: Sequence[str]) -> list[str]:
    """The line with the command that tests a checkpoint; none where there is no test.py."""
    script = ROOT / "test.py"
    if not script.is_file():
        return []
    return [f"test:     {shown_command(script, '-r', checkpoint, *words)}"]
