"""The checkpoint that a process starts from, and the run that it opens."""

import atexit
import logging
import shlex
import shutil
import tempfile
from functools import partial
from pathlib import Path

from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.errors import CheckpointError, ConfigError, StorageError
from machinery.files import ROOT, check_place, did_you_mean, ensure_dir, shown
from machinery.launch.launch import Launch


def read_start(launch: Launch, given: str) -> None:
    """Start from what `-r` names.

    That is a checkpoint file, or a run folder: of this the newest whole one if it is continued,
    else its best.

    Raises:
        ConfigError: the command line contradicts itself.
        CheckpointError: there is none, or it cannot be read or continued.
    """
    if not given.strip():
        raise ConfigError("-r is empty: an unset variable?")
    try:
        _read_start(launch, given)
    except OSError as error:  # somebody else's folder
        raise CheckpointError(f"{given} cannot be read: {error.strerror}") from error


def _read_start(launch: Launch, given: str) -> None:
    path, folder = _located(given)
    if launch.continues and launch.run_id is not None:
        raise ConfigError(
            "--run_id names a new run: a run that is continued with -r keeps its folder"
        )
    best = None
    if not launch.continues and path == folder:
        best = run_folder.best(path)
    if best is not None:
        path = best
    if path == folder:
        start_from_newest(launch, path)
    else:
        _start_from_file(launch, path, folder)
    if launch.continues:
        _check_is_run(launch, folder, given)


def start_from_newest(launch: Launch, folder: Path) -> None:
    """Start from the newest whole checkpoint of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    path, content, warnings = run_folder.newest_whole(folder)
    launch.start_from(path, content)
    if warnings:
        logging.getLogger("checkpoint").warning("\n  ".join(warnings))


def _located(given: str) -> tuple[Path, Path]:
    """The path that is meant, and the folder that it is, or is in."""
    try:
        path = Path(given).absolute()
        # Links are kept, but one to a run: the log folder stands beside what it leads to.
        if path.is_symlink():
            path = path.parent / path.readlink()
        if path.is_dir() and path.suffix != run_folder.SHARDED:
            return path, path
        return path, path.parent
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a loop of links
        raise CheckpointError(f"{given} cannot be read: {error}") from None


def _start_from_file(launch: Launch, path: Path, folder: Path) -> None:
    """Start from a file, or name the whole checkpoints beside it."""
    try:
        launch.start_from(path, launch.read(path))
    except CheckpointError as error:
        hint = ""
        if folder.is_dir():
            whole = run_folder.whole_beside(path)
            if whole:
                hint = f"\n  whole checkpoints beside it: {', '.join(whole)}"
        if not hint and not path.exists():
            hint = _what_is_meant(path)
        raise CheckpointError(f"{error}{hint}") from None


def _what_is_meant(path: Path) -> str:
    """What a path that is not there may mean: a name near it, else the newest run."""
    models = ROOT / "saved" / "models"
    runs = [*models.glob("*/*/")]
    meant = did_you_mean(path, [*models.glob("*/"), *runs])
    if meant or not runs:
        return meant
    newest = max(runs, key=lambda run: run.stat().st_mtime)
    return f": the newest run is {shlex.quote(shown(newest))}"


def _check_is_run(launch: Launch, folder: Path, given: str) -> None:
    """Refuse to continue what is in no folder of a run."""
    if (folder / "config.json").exists() and folder.parent.parent.name == "models":
        return
    why = "is not in a run folder (models/NAME/RUN with a config.json), so it cannot be continued"
    hint = f"move it to one, or start a new run with its weights: -c CONFIG -r {shlex.quote(given)}"
    raise CheckpointError(f"{launch.checkpoint} {why}: {hint}")


def open_run(launch: Launch, runs: Path) -> Run:
    """The run: that of the checkpoint where one goes on or is evaluated, else a new one.

    Args:
        launch: what is to be done.
        runs: the folder for a new one.

    Raises:
        ConfigError: another process owns it.
        StorageError: its folders cannot be made.
    """
    distributed.check_launch()
    if not launch.trains:
        assert launch.checkpoint is not None
        return Run(launch.checkpoint.parent, owned=False)
    run = launch.run
    if run is None:
        # The main process makes it; the others get copies, which own nothing.
        run = distributed.from_main(partial(_new_run, launch, runs))
    ensure_dir(run.log_dir)
    run_folder.check_places(run.folder)
    _refuse_links(run.log_dir)
    return run


def _refuse_links(folder: Path) -> None:
    """Refuse a folder of logs that leads elsewhere, itself, or by what is in it."""
    for path in (folder, *folder.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise StorageError(f"{path} is a link, and is not written to")
    for path in folder.glob("*/events*"):
        check_place(path)


def _check_place(launch: Launch, runs: Path) -> None:
    """Refuse what the run itself could not do with its folders, without making any."""
    folder = runs / (launch.run_id or "new")
    if launch.continues and launch.checkpoint is not None:
        folder = launch.checkpoint.parent
        run_folder.check_possible(folder)
    else:
        if launch.run_id is not None:
            run_folder.check_free(folder)
        run_folder.check_possible(runs)
    logs = Run(folder, owned=False).log_dir
    run_folder.check_possible(logs)
    if logs.exists():
        _refuse_links(logs)


def _new_run(launch: Launch, runs: Path) -> Run:
    """A run that nobody owns yet; one that only checks has a folder that goes with the process."""
    if launch.checking:
        _check_place(launch, runs)
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        folder = run_folder.create(Path(scratch) / "models" / runs.name, "check")
        return Run(folder, stays=False)
    if launch.continues and launch.checkpoint is not None:
        return Run(launch.checkpoint.parent)
    return Run(run_folder.create(runs, launch.run_id))
