"""The checkpoints of a run folder: their names, their order, the newest whole one, which may go."""

import gc
import logging
import operator
import os
import re
import socket
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from machinery import distributed
from machinery.checkpoints.manifest import NAME, SUFFIX
from machinery.errors import CheckpointError, ConfigError, StorageError
from machinery.files import check_folder, check_place, ensure_dir, remove, set_aside

FILE = ".pth"
SHARDED = SUFFIX
_BEST = "model_best"
#: A best that is a folder has its epoch in its name: a new one cannot take an old one's at once.
_BEST_NAME = re.compile(rf"{_BEST}(?:\{FILE}|-epoch(\d+)\{SHARDED})")
#: The names of what a training writes into its folder.
_WRITTEN = re.compile(
    r"(config|environment|status)\.json|changes-.+\.diff"
    r"|(checkpoint-epoch.+|model_best)\.pth(\.old)?"
)
_WRITTEN_FOLDER = re.compile(rf"(checkpoint-epoch|{_BEST}).*\{SHARDED}(\.old)?")
_NAME = re.compile(rf"checkpoint-epoch(\d+)(?:-step(\d+))?(?:\{FILE}|\{SHARDED})")


class Saved(NamedTuple):
    """A checkpoint file, and how far the run had come."""

    epoch: int
    #: Batches done in an unfinished epoch; None after a finished one.
    step: int | None
    path: Path

    @property
    def order(self) -> tuple[int, float]:
        """Sorts files by time: a step of epoch N stands before the end of epoch N."""
        if self.step is None:
            return self.epoch, float("inf")
        return self.epoch, self.step


class Newest(NamedTuple):
    """The newest checkpoint of a run folder that is whole."""

    path: Path
    content: Any
    #: One for each newer file that had to be passed over, and what that costs.
    warnings: list[str]


def check_run_id(run_id: str | None) -> None:
    """Refuse what is no name of a folder.

    Raises:
        ConfigError: with what it should be.
    """
    if run_id is None:
        return
    if not run_id.isprintable() or not re.fullmatch(r"(?!\.{1,2}$)[^/\\]{1,100}", run_id):
        raise ConfigError(
            f"--run_id {run_id!r}: expected the name of a folder, up to 100 letters without slashes"
        )


def create(parent: Path, run_id: str | None) -> Path:
    """Make the folder of a new run.

    Args:
        run_id: its name; None stands for the time, with -2, -3, … where two start in one second.

    Raises:
        ConfigError: the run_id is taken.
        StorageError: it cannot be made.
    """
    check_run_id(run_id)
    ensure_dir(parent)
    if run_id is not None:
        folder = parent / run_id
        if not _make(folder):
            check_free(folder)
        return folder
    name = datetime.now().strftime("%Y%m%d_%H%M%S")
    folder = parent / name
    number = 1
    while not _make(folder):
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def check_free(folder: Path) -> None:
    """Make sure that a new run may have a folder: there is none, or one of a run without a file.

    Raises:
        ConfigError: it is taken.
    """
    if os.path.lexists(folder) and not _has_saved_nothing(folder):
        raise ConfigError(_taken(folder))


def _make(folder: Path) -> bool:
    """Make a folder; False if something is there already."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error
    return True


def has_saved(folder: Path) -> bool:
    """Whether there are checkpoints in a folder."""
    return any(checkpoints(folder)) or best(folder) is not None


def _has_saved_nothing(folder: Path) -> bool:
    """Whether a folder is that of a run that has ended before its first checkpoint."""
    if (folder / "status.json").is_file():
        return not has_saved(folder)
    # One that was refused before it began leaves its lock alone.
    return folder.is_dir() and [path.name for path in folder.iterdir()] == [".lock"]


def _taken(folder: Path) -> str:
    """What to do about a run_id whose folder is there."""
    if has_saved(folder):
        return f"the run {folder} exists: continue it with -r auto, or choose another --run_id"
    return f"{folder} exists, and is no run: choose another --run_id"


def check_possible(folder: Path) -> None:
    """Make sure that folders can be made in `folder`, or it itself, without leaving any.

    Raises:
        StorageError: they cannot.
    """
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    try:
        Path(tempfile.mkdtemp(dir=there)).rmdir()
    except OSError as error:
        raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


def check_places(folder: Path) -> None:
    """Refuse to go on in a run folder where something else stands in the place of a file of ours.

    Raises:
        StorageError: it does.
    """
    for path in folder.iterdir():
        if _WRITTEN.fullmatch(path.name):
            check_place(path)
        if _WRITTEN_FOLDER.fullmatch(path.name):
            check_folder(path)


def checkpoint_name(epoch: int, step: int | None, suffix: str = FILE) -> str:
    """The name of a checkpoint after `epoch`, or after `step` batches of it.

    Args:
        suffix: `FILE`, or `SHARDED` of a folder.
    """
    if step is None:
        return f"checkpoint-epoch{epoch}{suffix}"
    return f"checkpoint-epoch{epoch}-step{step}{suffix}"


def may_be_one(path: Path) -> bool:
    """Whether a path is a file, or a folder that a checkpoint may be."""
    return path.is_file() or (path.suffix == SHARDED and path.is_dir())


def not_there(path: Path) -> str:
    """What to say of a path that is no checkpoint; the names of those in it, if it is a folder."""
    if not path.is_dir():
        return f"there is no file {path}"
    names = [saved.path.name for saved in checkpoints(path)]
    if not names:
        return f"{path} is a folder"
    return f"{path} is a folder: name one of its {', '.join(names[-5:])}"


def best_name(epoch: int, suffix: str = FILE) -> str:
    """The name of the best checkpoint, of an epoch."""
    if suffix == SHARDED:
        return f"{_BEST}-epoch{epoch}{SHARDED}"
    return f"{_BEST}{FILE}"


def bests(folder: Path) -> list[Path]:
    """The best checkpoints in a run folder, the newest last.

    There are several if a run was killed before it had removed an old one, or has changed from
    files to folders.
    """
    found = []
    for path in _all_in(folder):
        match = _BEST_NAME.fullmatch(path.name)
        if match is not None:
            found.append((int(match[1] or 0), path))
    return [path for _, path in sorted(found)]


def _all_in(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is not there.

    Raises:
        OSError: it is somebody else's; a glob would find nothing.
    """
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def best(folder: Path) -> Path | None:
    """The best checkpoint in a run folder; None where there is none."""
    found = bests(folder)
    if not found:
        return None
    return found[-1]


def keep_best(path: Path) -> None:
    """Remove the best checkpoints beside one that has taken their place."""
    for other in bests(path.parent):
        if other != path:
            remove(other)


def checkpoints(folder: Path) -> list[Saved]:
    """The checkpoints in a run folder, oldest first, without the best."""
    found = []
    for path in _all_in(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        step = None
        if match[2] is not None:
            step = int(match[2])
        found.append(Saved(int(match[1]), step, path))
    return sorted(found, key=operator.attrgetter("order"))


def newest_whole(folder: Path) -> Newest:
    """Load the newest checkpoint of a run folder that is whole; the best may be it.

    Raises:
        CheckpointError: there is none, with the reason for each file.
    """
    candidates = _newest_first(folder)
    problems = []
    for saved in candidates:
        try:
            content = _load(saved)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            lost = candidates[0].epoch - saved.epoch
            epochs = "1 epoch" if lost == 1 else f"{lost} epochs"
            problems.append(f"falling back to {saved.path.name}: {epochs} to do again")
        return Newest(saved.path, content, problems)
    if problems:
        raise CheckpointError("no whole checkpoint:\n  " + "\n  ".join(problems))
    if (folder / NAME).is_file():
        what = f"is a checkpoint whose name has lost its {SHARDED}"
        raise CheckpointError(f"{folder} {what}: rename it")
    replaced = sorted(folder.glob(f"*{SHARDED}.old"))
    if replaced:  # a kill came while the only checkpoint was written once more
        what = f"holds no checkpoint, but {replaced[-1].name}, which was about to be replaced"
        raise CheckpointError(f"{folder} {what}: rename it")
    raise CheckpointError(f"{folder} holds no checkpoint-epoch*.pth{_runs_hint(folder)}")


def _newest_first(folder: Path) -> list[Saved]:
    """The checkpoints of a folder with the best, which stands behind that of its own epoch."""
    from machinery.checkpoints import stored

    files = checkpoints(folder)
    files.reverse()
    path = best(folder)
    if path is None:
        return files
    try:
        epoch = stored.load(path, mmap=True)["epoch"]
    except CheckpointError:  # then nobody knows when it was
        return files
    of_best = Saved(epoch, None, path)
    newer = [saved for saved in files if saved.order >= of_best.order]
    return [*newer, of_best, *files[len(newer) :]]


def _load(saved: Saved) -> Any:
    """The content of a checkpoint, which is of the epoch that its name says."""
    from machinery.checkpoints import stored

    content = stored.load(saved.path, mmap=not distributed.alone())
    if content["epoch"] != saved.epoch:
        raise CheckpointError(f"{saved.path} is of epoch {content['epoch']}")
    return content


def _runs_hint(folder: Path) -> str:
    """The runs in a folder that is none itself, or in folders of it: `saved/models/NAME/RUN`."""
    for pattern in ("*", "*/*", "*/*/*"):
        runs = {path.parent for path in folder.glob(f"{pattern}/checkpoint-epoch*")}
        if runs:
            names = [run.relative_to(folder).as_posix() for run in sorted(runs)]
            return f"; its runs: {', '.join(names[-5:])}"
    return ""


def whole_beside(path: Path) -> list[str]:
    """The names of the whole checkpoints beside a file, newest first, for an error message."""
    from machinery.checkpoints import stored

    files = [saved.path for saved in checkpoints(path.parent)]
    files.reverse()
    names = []
    for file in (*files, *bests(path.parent)):
        if file != path and stored.damage(file) is None:
            names.append(file.name)
    return names


def set_aside_later(folder: Path, epoch: int, step: int | None) -> list[str]:
    """Rename the checkpoints of later than this moment to `*.old`; return their names.

    The run is about to take another way.
    """
    here = Saved(epoch, step, folder).order
    names = []
    for saved in checkpoints(folder):
        if saved.order > here:
            set_aside(saved.path)
            names.append(saved.path.name)
    return names


def prune(folder: Path, keep_last: int | None, written: Path | None = None) -> None:
    """Remove what nobody needs to go on, once a newer file is whole. The best is never counted.

    That is epoch files beyond the newest `keep_last` (None keeps all), step files beyond the newest
    two, and those that a later epoch file has outdone.

    Args:
        written: stays, whatever is called later: somebody may have put that there.
    """
    files = checkpoints(folder)
    epochs = [saved for saved in files if saved.step is None]
    steps = [saved for saved in files if saved.step is not None]
    unneeded = steps[:-2]
    if keep_last:
        unneeded += epochs[:-keep_last]
    for saved in steps[-2:]:
        if epochs and saved.epoch <= epochs[-1].epoch:
            unneeded.append(saved)
    for saved in unneeded:
        if saved.path != written:
            remove(saved.path)


#: The folders that this process owns: the system's locks keep only other processes out.
_owned: set[Path] = set()


def own(folder: Path) -> int:
    """Lock a run folder for this process, until it ends or disowns it.

    Returns:
        the descriptor of the lock, for `disown`; -1 where the system has no locks.

    Raises:
        ConfigError: it is owned already.
        StorageError: the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        return -1
    if folder.resolve() in _owned:
        gc.collect()  # the run may be one that nobody has any more
    if folder.resolve() in _owned:
        raise ConfigError(f"{folder} is in use by this process: finish its run first")
    descriptor = _open_lock(folder)
    try:
        # A record lock: unlike flock's, forked workers do not inherit it and hold it when this
        # process is killed.
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
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError:  # a full disk
        pass
    _owned.add(folder.resolve())
    return descriptor


def _open_lock(folder: Path) -> int:
    try:
        # A link that somebody has put there is not followed: the file would be emptied.
        check_place(folder / ".lock")
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}") from error


def disown(folder: Path, descriptor: int) -> None:
    """Let go of a folder that `own` has locked."""
    if descriptor >= 0:
        os.close(descriptor)
        _owned.discard(folder.resolve())
