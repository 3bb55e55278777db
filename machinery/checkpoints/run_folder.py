"""The checkpoints of a run folder: their names, their order, the newest whole one, and which may go."""

import contextlib
import logging
import os
import re
import socket
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from machinery.errors import CheckpointError, ConfigError, StorageError
from machinery.files import ensure_dir

BEST = "model_best.pth"
_NAME = re.compile(r"checkpoint-epoch(\d+)(?:-step(\d+))?\.pth")


class Saved(NamedTuple):
    """A checkpoint file: `step` counts the batches done in an unfinished epoch, and is None after a finished one."""

    epoch: int
    step: int | None
    path: Path

    @property
    def order(self) -> tuple[int, float]:
        """Sorts files by how far the run had come: a step of epoch N stands before the end of epoch N."""
        return self.epoch, float("inf") if self.step is None else self.step


def check_run_id(run_id: str | None) -> None:
    """Refuse what is no name of a folder.

    Raises:
        ConfigError: with what it should be.
    """
    if run_id is not None and not (
        run_id.isprintable() and re.fullmatch(r"(?!\.{1,2}$)[^/\\]{1,100}", run_id)
    ):
        raise ConfigError(
            f"--run_id {run_id!r}: expected the name of a folder, up to 100 letters without slashes"
        )


def create(parent: Path, run_id: str | None) -> Path:
    """Make the folder of a new run: `run_id`, or the time with -2, -3, … where two start in one second.

    Raises:
        ConfigError: the run_id is taken.
    """
    check_run_id(run_id)
    ensure_dir(parent)
    name = run_id or datetime.now().strftime("%Y%m%d_%H%M%S")
    folder, number = parent / name, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            if run_id is not None:
                saved = any(checkpoints(folder)) or (folder / BEST).exists()
                how = (
                    "continue it with -r auto, or choose"
                    if saved
                    else "it has saved nothing: choose"
                )
                raise ConfigError(f"the run {folder} exists: {how} another --run_id") from None
            number += 1
            folder = parent / f"{name}-{number}"
        except OSError as error:
            raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


def check_possible(folder: Path) -> None:
    """Make sure that folders can be made in `folder`, or it itself, without leaving any.

    Raises:
        StorageError: they cannot.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        Path(tempfile.mkdtemp(dir=there)).rmdir()
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


def checkpoint_name(epoch: int, step: int | None) -> str:
    """The file name of a checkpoint after `epoch`, or after `step` batches of it."""
    return (
        f"checkpoint-epoch{epoch}.pth"
        if step is None
        else f"checkpoint-epoch{epoch}-step{step}.pth"
    )


def checkpoints(folder: Path) -> list[Saved]:
    """The checkpoints in a run folder, oldest first, without `model_best.pth`."""
    found = []
    for path in folder.glob("checkpoint-epoch*.pth"):
        if match := _NAME.fullmatch(path.name):
            found.append(Saved(int(match[1]), int(match[2]) if match[2] else None, path))
    return sorted(found, key=lambda saved: saved.order)


def newest_whole(folder: Path) -> tuple[Path, Any, list[str]]:
    """Load the newest checkpoint of a run folder that is whole; the best may be it.

    Returns:
        its path, its content, and a warning for each newer file that had to be passed over.

    Raises:
        CheckpointError: there is none, with the reason for each file.
    """
    from machinery.checkpoints import file as checkpoint

    files, best = checkpoints(folder), folder / BEST
    with contextlib.suppress(CheckpointError):
        if best.exists():
            files.append(Saved(checkpoint.load(best, mmap=True)["epoch"], None, best))
    candidates = sorted(files, key=lambda saved: (saved.order, saved.path != best), reverse=True)
    problems: list[str] = []
    for saved in candidates:
        try:
            state = checkpoint.load(saved.path)
            if state["epoch"] != saved.epoch:
                raise CheckpointError(f"{saved.path} is of epoch {state['epoch']}")
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            lost = candidates[0].epoch - saved.epoch
            problems.append(
                f"falling back to {saved.path.name}: {lost} epoch{'s' * (lost != 1)} to do again"
            )
        return saved.path, state, problems
    if problems:
        raise CheckpointError("no whole checkpoint:\n  " + "\n  ".join(problems))
    runs = sorted({path.parent.name for path in folder.glob("*/checkpoint-epoch*.pth")})
    hint = f"; its runs: {', '.join(runs[-5:])}" if runs else ""
    raise CheckpointError(f"{folder} holds no checkpoint-epoch*.pth{hint}")


def whole_beside(path: Path) -> list[str]:
    """The names of the whole checkpoints in the folder of `path`, newest first, for an error message."""
    from machinery.checkpoints import file as checkpoint

    files = [*(saved.path for saved in reversed(checkpoints(path.parent))), path.parent / BEST]
    return [file.name for file in files if file != path and checkpoint.damage(file) is None]


def set_aside_later(folder: Path, epoch: int, step: int | None) -> list[str]:
    """Rename the checkpoints of later than this place to `*.pth.old`; the run is about to take another way."""
    here = Saved(epoch, step, folder).order
    later = [saved.path for saved in checkpoints(folder) if saved.order > here]
    for path in later:
        path.replace(path.with_name(path.name + ".old"))
    return [path.name for path in later]


def prune(folder: Path, keep_last: int | None) -> None:
    """Remove what nobody needs to go on, once a newer file is whole: epoch files beyond the newest `keep_last`, step
    files beyond the newest two, and those that a later epoch file has outdone. The best is never counted.
    """
    files = checkpoints(folder)
    epochs, steps = (
        [saved for saved in files if (saved.step is None) == whole] for whole in (True, False)
    )
    outdone = [saved for saved in steps if epochs and saved.epoch <= epochs[-1].epoch]
    for saved in {*outdone, *steps[:-2], *epochs[: -(keep_last or len(epochs))]}:
        with contextlib.suppress(FileNotFoundError):
            saved.path.unlink()


#: The folders that this process owns: the system's locks keep only other processes out.
_owned: set[Path] = set()


def own(folder: Path) -> int:
    """Lock a run folder for this process, until it ends or disowns it; -1 where the system has no locks.

    Raises:
        ConfigError: it is owned already.
        StorageError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        return -1
    if folder.resolve() in _owned:
        raise ConfigError(f"{folder} is in use by this process: finish its run first")
    try:
        # A link that somebody has put there is not followed: the file would be emptied.
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        # A record lock: unlike flock's, forked workers do not inherit it and hold it when this process is killed.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
        os.close(descriptor)
        raise ConfigError(
            f"{folder} is in use by {owner}: stop it first, or start another run"
        ) from None
    except OSError:
        logging.getLogger("checkpoint").warning(
            f"{folder}: no file locks here: let no other process write to this run"
        )
    with contextlib.suppress(OSError):  # a full disk
        os.truncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    _owned.add(folder.resolve())
    return descriptor


def disown(folder: Path, descriptor: int) -> None:
    """Let go of a folder that `own` has locked."""
    if descriptor >= 0:
        os.close(descriptor)
        _owned.discard(folder.resolve())
