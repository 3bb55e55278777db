"""How many threads and workers a checkpoint, which may come from anybody, may ask for."""

import os
import shlex

from machinery.config.source import Source
from machinery.errors import CheckpointError

#: What a machine may be asked for however few cores it has.
_ALWAYS = 64


def refuse_too_many(source: Source) -> None:
    """Refuse far more threads or workers than this machine has cores, unless `--set` asks for them.

    They would take minutes to start, or all of its memory.

    Raises:
        CheckpointError: with what to say.
    """
    cores = os.cpu_count() or 1
    for entry in source.entries():
        if entry.key.rpartition(".")[2] not in ("threads", "num_workers"):
            continue
        if not isinstance(entry.value, int) or entry.origin.startswith("command line"):
            continue
        if entry.value > max(_ALWAYS, 4 * cores):
            what = f"{entry.key}: {entry.value} are too many for {cores} cores"
            hint = f"say how many it may be: --set {shlex.quote(f'{entry.key}={cores}')}"
            raise CheckpointError(f"{entry.origin}: {what}; {hint}")
