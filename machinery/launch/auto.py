"""What `-r auto` continues.

It is the run called `run_id`, else the newest of the config that can go on, else nothing.
"""

import logging
from pathlib import Path

from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.config.checking import Checked, check
from machinery.config.source import Source, differences
from machinery.errors import CheckpointError, ConfigError, NonFiniteError, StorageError
from machinery.files import read_json
from machinery.launch.launch import Launch
from machinery.launch.start import start_from_newest

#: Settings of the trainer that say how long, and what is written: with others of these it is still
#: the same run.
ASIDE = (
    "epochs",
    "save_period",
    "keep_last",
    "save",
    "save_step",
    "checkpoint",
    "async_save",
    "verbosity",
    "tensorboard",
    "log_step",
    "trackers",
)
#: So many runs that cannot go on are named.
_NAMED = 3
_logger = logging.getLogger("checkpoint")


def find_run(launch: Launch, checked: Checked) -> None:
    """Let the launch go on in a run, if there is one that can."""
    runs = checked.settings.runs_folder
    if launch.run_id is None:
        _find_newest(launch, checked, runs)
    elif (runs / launch.run_id).exists():
        _go_on_in(launch, Run(runs / launch.run_id))


def _find_newest(launch: Launch, checked: Checked, runs: Path) -> None:
    """Go on in the newest run of the config that can, and say why the others cannot."""
    passed_over = []
    for folder in _newest_first(runs):
        obstacle = _obstacle(folder, checked)
        if obstacle is None:
            obstacle = _try(launch, folder)
        if obstacle is None:
            return
        passed_over.append(f"{folder.name}: {obstacle}")
    if passed_over:
        lines = ["-r auto starts a new run; the others cannot go on:", *passed_over[:_NAMED]]
        if len(passed_over) > _NAMED:
            lines.append("…")
        _logger.info("\n  ".join(lines))


def _newest_first(runs: Path) -> list[Path]:
    """The run folders of an experiment.

    They are named by the time, but one with a run_id of its own may be newer.
    """
    folders = [path.parent for path in runs.glob("*/config.json")]
    return sorted(folders, key=_last_written, reverse=True)


def _last_written(folder: Path) -> tuple[int, str]:
    """When a run last saved, or began."""
    latest = 0
    saved = [each.path for each in run_folder.checkpoints(folder)]
    for path in (*saved, folder / "config.json"):
        if path.exists():
            latest = max(latest, path.stat().st_mtime_ns)
    return latest, folder.name


def _obstacle(folder: Path, checked: Checked) -> str | None:
    """Why the run of a folder, by what its files say, is not to be continued; None if it is."""
    try:
        before = check(Source(read_json(folder / "config.json")), classic=checked.source.classic)
        ended = _exit_code(folder)
    except Exception as error:  # whatever a foreign file holds
        return f"cannot be read: {type(error).__name__}: {error}"
    other = _other_settings(before, checked)
    if other:
        return f"another config: {', '.join(other[:3])}"
    if ended in (ConfigError.exit_code, NonFiniteError.exit_code):
        return f"ended with exit {ended}"
    return None


def _exit_code(folder: Path) -> int:
    """What the run last ended with; 0 while it has not ended."""
    status = folder / "status.json"
    if not status.exists():
        return 0
    return int(read_json(status).get("exit_code", 0))


def _other_settings(before: Checked, now: Checked) -> list[str]:
    """The key paths of the settings that make it another run."""
    aside = {"$schema"}
    for key in ASIDE:
        aside.add(f"trainer.{key}")
    scheduler = now.values.get("lr_scheduler")
    if scheduler is not None and scheduler.get("type") == "OneCycleLR":
        aside.remove("trainer.epochs")  # its learning rates depend on the length of the run
    other = []
    for change in differences(_all_settings(before), _all_settings(now)):
        section_and_key = ".".join(change.key.split(".")[:2])
        if section_and_key not in aside:
            other.append(change.key)
    return other


def _all_settings(checked: Checked) -> Source:
    """The settings, also those that the config leaves to their defaults."""
    return Source(checked.settings.model_dump(mode="json"))


def _try(launch: Launch, folder: Path) -> str | None:
    """Go on in a run folder, or say why that cannot be."""
    try:
        _go_on_in(launch, Run(folder))
    except (ConfigError, CheckpointError, StorageError) as error:  # in use, or nothing whole
        launch.start_anew()
        return str(error).splitlines()[0]
    content = launch.content()
    if content is not None and content["progress"]["finished"]:
        launch.start_anew()
        return "finished"
    return None


def _go_on_in(launch: Launch, run: Run) -> None:
    """Continue a run, or begin it anew where it has saved nothing."""
    launch.run = run
    if run_folder.has_saved(run.folder):
        launch.task = "continue"
        start_from_newest(launch, run.folder)
    else:
        _logger.warning(f"{run.folder} holds no checkpoint: starting at epoch 1 in it")
