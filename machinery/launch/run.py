"""Opens the run of a launch."""

import atexit
import shutil
import tempfile
from functools import partial
from pathlib import Path

from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.files import ensure_dir
from machinery.launch.launch import Launch


def open_run(launch: Launch, runs: Path) -> Run:
    """The run: that of the checkpoint where one goes on or is evaluated, else a new one.

    Args:
        launch: what is to be done.
        runs: the folder for a new one.

    Raises:
        ConfigError: another process owns it.
        StorageError: its folders cannot be made.
    """
    if not launch.trains:
        assert launch.checkpoint is not None
        return Run(launch.checkpoint.parent, owned=False)
    run = launch.run
    if run is None:
        # The main process makes it; the others get copies, which own nothing.
        run = distributed.from_main(partial(_new_run, launch, runs))
    ensure_dir(run.log_dir)
    return run


def _new_run(launch: Launch, runs: Path) -> Run:
    """A run that nobody owns yet; one that only checks has a folder that goes with the process."""
    if launch.checking:
        run_folder.check_possible(runs)
        scratch = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        folder = run_folder.create(Path(scratch) / "models" / runs.name, "check")
        return Run(folder, stays=False)
    if launch.continues and launch.checkpoint is not None:
        return Run(launch.checkpoint.parent)
    return Run(run_folder.create(runs, launch.run_id))
