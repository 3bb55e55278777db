"""How a process starts: from a command line to what it is to do, with which config, from which checkpoint."""

import argparse
import json
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from machinery import files
from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.config.schema import Checked, check, known
from machinery.config.source import (
    Source,
    dotted,
    leaves,
    override,
    read_source,
    read_value,
    to_plain,
)
from machinery.errors import CheckpointError, ConfigError, NonFiniteError, StorageError
from machinery.files import ROOT, read_json

#: Keys of the trainer that say how long, and what is written: with others of these it is still the same run.
ASIDE = (
    "epochs",
    "save_period",
    "keep_last",
    "save_step",
    "verbosity",
    "tensorboard",
    "log_step",
    "trackers",
)
_logger = logging.getLogger("checkpoint")


@dataclass
class Launch:
    """What a process is to do; decided before there is a `ConfigParser`. Copies read the checkpoint themselves."""

    task: Literal["train", "continue", "fine-tune", "evaluate"] = "train"
    #: Try everything on one batch only; then nothing that is written stays.
    checking: bool = False
    #: The checkpoint to start from.
    checkpoint: Path | None = None
    #: The run to go on in.
    run: Run | None = None
    #: The name of a new run's folder; None is the time.
    run_id: str | None = None
    #: (dotted path, old value, new value) of what differs from the config of the checkpoint.
    changes: list[tuple[str, Any, Any]] = field(default_factory=list)
    #: The parsed command line, if there was one.
    args: argparse.Namespace = field(default_factory=argparse.Namespace)
    _content: Any = None

    def content(self) -> Any:
        """What the checkpoint holds, read at the first call; None without one."""
        if self._content is None and self.checkpoint is not None:
            from machinery.checkpoints import file as checkpoint

            self._content = checkpoint.load(self.checkpoint)
        return self._content

    def release(self) -> None:
        """Let the content go: it has been restored, and is as large as the model."""
        self._content = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_content": None}


def add_options(
    parser: argparse.ArgumentParser, options: Iterable[Any], evaluating: bool
) -> dict[str, Any]:
    """Add the custom options, and the common ones that the program has not declared itself.

    Returns:
        the keys that the custom options set, by the names of their values in the parsed command line.
    """
    common: list[tuple[list[str], dict[str, Any]]] = [
        (["-c", "--config"], {"help": "config file"}),
        (
            ["-r", "--resume"],
            {"help": "checkpoint or run folder; with -c, to train: take only its weights"},
        ),
        (["-d", "--device"], {"help": "GPUs to use, as for CUDA_VISIBLE_DEVICES"}),
        (
            ["--set"],
            {
                "action": "append",
                "default": [],
                "metavar": "KEY=VALUE",
                "help": "set any key of the config",
            },
        ),
        (["--run_id"], {"help": "name of the run's folder; by default the time"}),
        (["--traceback"], {"action": "store_true", "help": "show the traceback of an error"}),
        (
            ["--check"],
            {"action": "store_true", "help": "try everything on one batch, leave nothing behind"},
        ),
    ]
    if not evaluating and Path(sys.argv[0]).suffix == ".py":
        files.started = Path(sys.argv[0]).absolute()
    targets = {}
    for option in options:
        target = option.target if isinstance(option.target, str) else ";".join(option.target)
        added = parser.add_argument(
            *option.flags, type=option.type, help=f"sets {target.replace(';', '.')}"
        )
        targets[added.dest] = option.target
    for flags, settings in common[: -1 if evaluating else None]:
        if not any(flag in parser._option_string_actions for flag in flags):
            parser.add_argument(*flags, **settings)
    return targets


def read_command(
    args: argparse.Namespace, modification: Mapping[Any, Any], evaluating: bool, partial: bool
) -> tuple[Checked, Launch]:
    """The config that a parsed command line means, and what is to be done with it.

    Args:
        modification, evaluating, partial: as in `ConfigParser` and its `from_args`.

    Raises:
        ConfigError: the command line or the config is wrong, or another process owns the run.
        CheckpointError: the checkpoint cannot be read.
    """
    config = shlex.quote(files.shown(ROOT / "config.json"))
    if args.resume is None and (evaluating or args.config is None):
        what = (
            "what to evaluate: "
            if evaluating
            else f"what to train: -c {config}, or to continue a run: "
        )
        raise ConfigError(f"say {what}-r CHECKPOINT")

    run_folder.check_run_id(args.run_id)
    launch = Launch(checking=getattr(args, "check", False), run_id=args.run_id, args=args)
    auto = args.resume == "auto" and not evaluating
    if auto and args.config is None:
        raise ConfigError(f"-r auto needs the config of the run: -c {config} -r auto")
    if args.resume is not None and not auto:
        launch.task = (
            "evaluate" if evaluating else "continue" if args.config is None else "fine-tune"
        )
        _read_start(launch, args.resume)
    checked = check(_source(launch, partial), modification)
    if auto and not launch.checking:
        _find_run(launch, checked)
    if launch.task == "continue" and launch.checkpoint is not None:
        _compare(launch, checked, renamed=auto)
        if launch.run is None and not launch.checking:
            launch.run = Run(launch.checkpoint.parent)  # nothing stands in the way any more
    return checked, launch


def read_run(path: str | Path) -> tuple[Checked, Launch]:
    """The config of a checkpoint, or of a run folder's best, which is to be evaluated."""
    launch = Launch("evaluate", args=argparse.Namespace(config=None, set=[]))
    _read_start(launch, str(path))
    return check(_source(launch, False)), launch


def _source(launch: Launch, partial: bool) -> Source:
    """The values of the file, or of the checkpoint, with what `--set` changes."""
    given = None if launch.args.config is None else read_source(Path(launch.args.config))
    if given is not None and not (partial and launch.task == "fine-tune"):
        source = given
    else:
        source = Source(to_plain(launch.content()["config"]), name=str(launch.checkpoint))
        source.values |= given.values if given else {}
    for text in launch.args.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, such as --set trainer.epochs=3")
        override(
            source, tuple(key.split(".")), read_value(value), f"command line (--set {key})", known
        )
    for path, value in leaves(source.values) if launch.args.config is None else ():
        typed = path[:1] == ("trainer",) or source.where(tuple(map(str, path))).startswith(
            "command line"
        )
        if not typed and path != ("$schema",) and isinstance(value, str) and _is_to_be_made(value):
            hint = f"if it is to be made, say so: --set {shlex.quote(f'{dotted(path)}={value}')}"
            raise CheckpointError(
                f"{source.where(path)}: {dotted(path)}: {value} is outside the project; {hint}"
            )
    return source


def _is_to_be_made(value: str) -> bool:
    """Whether a text is a path that leads out of the project, where nothing is."""
    try:
        place = Path(os.path.realpath(ROOT / Path(value).expanduser()))
        return not (place.is_relative_to(ROOT) or os.access(place, os.F_OK))
    except (ValueError, RuntimeError):  # no path at all
        return os.sep in value


def _read_start(launch: Launch, given: str) -> None:
    """Start from a checkpoint file, or of a run folder from its newest whole one if it is continued, else its best."""
    from machinery.checkpoints import file as checkpoint

    if not given.strip():
        raise ConfigError("-r is empty: an unset variable?")
    try:
        path = Path(
            given
        ).absolute()  # links are kept, but one to a run: the log folder stands beside them
        path = path.parent / path.readlink() if path.is_symlink() else path
        folder = path if path.is_dir() else path.parent
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, a loop of links
        raise CheckpointError(f"{given} cannot be read: {error}") from None
    if launch.task == "continue" and launch.run_id is not None:
        raise ConfigError(
            "--run_id names a new run: a run that is continued with -r keeps its folder"
        )
    if launch.task != "continue" and (path / run_folder.BEST).exists():
        path /= run_folder.BEST
    if path.is_dir():
        _start_from_newest(launch, path)
    else:
        try:
            launch.checkpoint, launch._content = path, checkpoint.load(path)
        except CheckpointError as error:
            beside = run_folder.whole_beside(path) if folder.is_dir() else []
            hint = f"\n  whole checkpoints beside it: {', '.join(beside)}" if beside else ""
            raise CheckpointError(f"{error}{hint}") from None
    is_run = (folder / "config.json").exists() and folder.parent.parent.name == "models"
    if launch.task == "continue" and not is_run:
        why = (
            "is not in a run folder (models/NAME/RUN with a config.json), so it cannot be continued"
        )
        hint = f"move it to one, or start a new run with its weights: -c CONFIG -r {shlex.quote(given)}"
        raise CheckpointError(f"{launch.checkpoint} {why}: {hint}")


def _start_from_newest(launch: Launch, folder: Path) -> None:
    launch.checkpoint, launch._content, warnings = run_folder.newest_whole(folder)
    if warnings:
        _logger.warning("\n  ".join(warnings))


def _find_run(launch: Launch, checked: Checked) -> None:
    """What `-r auto` continues: the run `run_id`, else the newest of the config that can go on, else nothing."""

    models = ROOT / checked.settings.trainer.save_dir / "models" / checked.settings.name
    if launch.run_id is not None:
        if (models / launch.run_id).exists():
            _go_on_in(launch, Run(models / launch.run_id))
        return
    passed_over = []
    # Run folders are named by the time, but one with a run_id of its own may be newer.
    for folder in sorted(
        (path.parent for path in models.glob("*/config.json")), key=_last_written, reverse=True
    ):
        reason = _obstacle(folder, checked)
        if not reason:
            try:
                _go_on_in(launch, Run(folder))
                if not launch._content or not launch._content["progress"]["finished"]:
                    return
                reason = "finished"
            except (
                ConfigError,
                CheckpointError,
                StorageError,
            ) as error:  # in use, or no whole checkpoint
                reason = str(error).splitlines()[0]
            launch.task, launch.run, launch.checkpoint, launch._content = "train", None, None, None
        passed_over.append(f"{folder.name}: {reason}")
    if passed_over:
        more = ["…"] if passed_over[3:] else []
        _logger.info(
            "\n  ".join(
                ["-r auto starts a new run; the others cannot go on:", *passed_over[:3], *more]
            )
        )


def _obstacle(folder: Path, checked: Checked) -> str:
    """Why `-r auto` does not continue the run of a folder; nothing if it does."""
    try:
        before = check(Source(read_json(folder / "config.json"))).settings
        status = read_json(folder / "status.json") if (folder / "status.json").exists() else {}
        ended = int(status.get("exit_code", 0))
    except Exception as error:  # whatever a foreign file holds
        return f"cannot be read: {type(error).__name__}: {error}"
    old, new = (
        dict(leaves(json.loads(settings.model_dump_json())))
        for settings in (before, checked.settings)
    )
    fixed_length = (checked.values.get("lr_scheduler") or {}).get("type") == "OneCycleLR"
    aside = {("$schema",), *(("trainer", key) for key in ASIDE[fixed_length:])}
    other = [
        path
        for path in {**old, **new}
        if path[:2] not in aside and old.get(path, "") != new.get(path, "")
    ]
    if other:
        return f"another config: {', '.join(map(dotted, other[:3]))}"
    return (
        f"ended with exit {ended}"
        if ended in (ConfigError.exit_code, NonFiniteError.exit_code)
        else ""
    )


def _go_on_in(launch: Launch, run: Run) -> None:
    launch.run = run
    if any(run_folder.checkpoints(run.folder)) or (run.folder / run_folder.BEST).exists():
        launch.task = "continue"
        _start_from_newest(launch, run.folder)
    else:
        _logger.warning(f"{run.folder} holds no checkpoint: starting at epoch 1 in it")


def _last_written(folder: Path) -> tuple[int, str]:
    """When a run last saved, or began."""
    files = [*folder.glob("checkpoint-*.pth"), folder / "config.json"]
    return max((path.stat().st_mtime_ns for path in files if path.exists()), default=0), folder.name


def _compare(launch: Launch, checked: Checked, renamed: bool) -> None:
    """Note what differs from the config of the checkpoint."""
    content = launch.content()
    before, now = dict(leaves(content["config"])), dict(leaves(checked.values))
    pairs = [
        (path, before.get(path, "(default)"), now.get(path, "(default)"))
        for path in {**now, **before}
    ]
    launch.changes += [(dotted(path), old, new) for path, old, new in pairs if old != new]
    kept = [change for change in launch.changes if change[0] in ("name", "trainer.save_dir")]
    if kept and not renamed:
        raise ConfigError(
            f"{kept[0][0]}: a run that is continued with -r keeps its name and its folder"
        )
