"""From a command line to a config: the options that every program has, and what `-c` and `-r` stand for."""

import argparse
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from config.json_file import read_source
from config.schema import known
from config.source import Source, dotted, leaves, override, read_value, to_plain
from utils.errors import CheckpointError, ConfigError
from utils.files import ROOT

if TYPE_CHECKING:
    from parse_config import ConfigParser

AUTO = "auto"


class Start(NamedTuple):
    """Where a run starts from."""

    #: A checkpoint file, and its content.
    checkpoint: Path | None = None
    state: dict[str, Any] | None = None
    #: The run folder to go on in.
    folder: Path | None = None


def add_options(parser: argparse.ArgumentParser, options: Iterable[Any], evaluating: bool) -> None:
    """Add the custom options, and the common ones that the program has not declared itself."""
    common: list[tuple[list[str], dict[str, Any]]] = [
        (["-c", "--config"], {"help": "config file"}),
        (["-r", "--resume"], {"help": "checkpoint or run folder"}),
        (["-d", "--device"], {"help": "GPUs to use, as for CUDA_VISIBLE_DEVICES"}),
        (["--set"], {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": "set any key of the config"}),
        (["--run_id"], {"help": "name of the run's folder; by default the time"}),
        (["--print-config"], {"action": "store_true", "help": "show each value with its origin, and leave"}),
        (["--traceback"], {"action": "store_true", "help": "show the traceback of an error"}),
    ]
    if not evaluating:
        common.append(
            (["--check"], {"action": "store_true", "help": "try everything on one batch, leave nothing behind"})
        )
    for option in options:
        target = option.target if isinstance(option.target, str) else ";".join(option.target)
        parser.add_argument(*option.flags, type=option.type, help=f"sets {target.replace(';', '.')}")
    for flags, settings in common:
        if not any(flag in parser._option_string_actions for flag in flags):
            parser.add_argument(*flags, **settings)


def option_name(flags: Iterable[str]) -> str:
    """argparse's name of an option: the first long flag, as argparse takes it."""
    flags = list(flags)
    flag = next((flag for flag in flags if flag.startswith("--")), flags[0])
    return flag.lstrip("-").replace("-", "_")


def load(
    cls: type["ConfigParser"], args: argparse.Namespace, modification: Mapping[Any, Any], evaluating: bool
) -> "ConfigParser":
    """The config that a parsed command line means, ready to start from the checkpoint that it names.

    Raises:
        ConfigError: the command line or the config is wrong, or another process owns the run.
        CheckpointError: the checkpoint cannot be read.
    """
    for flag, text in (("-c", args.config), ("-r", args.resume)):
        if text is not None and not text.strip():
            raise ConfigError(f"{flag} is empty: an unset variable?")
    if args.config is None and args.resume is None:
        raise ConfigError("say what to train: -c config.json, or -r CHECKPOINT to continue a run")
    checking = getattr(args, "check", False)
    auto = args.resume == AUTO and not evaluating
    if auto and args.config is None:
        raise ConfigError("-r auto needs the config of the run: -c config.json -r auto")
    run_id = getattr(args, "run_id", None)
    fine_tune = args.config is not None and args.resume is not None and not auto and not evaluating
    start = _read_start(Path(args.resume), evaluating) if args.resume and not auto else Start()
    if run_id is not None and start.folder is not None and not fine_tune and not evaluating:
        raise ConfigError("--run_id names a new run: a run that is continued with -r keeps its folder")
    if start.folder is not None and args.config is None and not evaluating and not _is_run(start.folder):
        raise CheckpointError(
            f"{start.checkpoint} is not in a run folder, so it cannot be continued; "
            f"a new run with its weights: -c CONFIG -r {args.resume}"
        )
    config = cls(_source(args, start), start.checkpoint, modification, run_id)
    config.args, config.evaluating, config.fine_tune, config.checking = args, evaluating, fine_tune, checking
    if getattr(args, "print_config", False):
        print("\n".join(config.described()))
        raise SystemExit(0)
    if auto and not checking:
        start = _find_run(config)
        config.resume = start.checkpoint
    if start.folder is not None and not fine_tune and not evaluating and not checking:
        config.continue_in(start.folder)
    config.give_checkpoint(start.state)
    if start.state is not None and not fine_tune:
        before = dict(leaves(start.state["config"]))
        for path, value in leaves(config.config):
            if before.get(path) != value:
                config.changes.append((dotted(path), before.get(path, "(default)"), value))
        kept = [change for change in config.changes if change[0] in ("name", "trainer.save_dir")]
        if kept and args.config is None and not evaluating:
            raise ConfigError(f"{kept[0][0]}: a run that is continued with -r keeps its name and its folder")
    return config


def _source(args: argparse.Namespace, start: Start) -> Source:
    """The values of the file, or of the checkpoint, with what `--set` changes."""
    if args.config is not None:
        source = read_source(Path(args.config))
    else:
        assert start.state is not None
        source = Source(to_plain(start.state["config"]), name=str(start.checkpoint))
    for text in getattr(args, "set", []):
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text}: expected KEY=VALUE, such as --set trainer.epochs=3")
        override(source, tuple(key.split(".")), read_value(value), f"command line (--set {key})", known)
    return source


def _read_start(path: Path, best: bool) -> Start:
    """A checkpoint file, or of a run folder the newest whole one; if `best`, its best where there is one."""
    from utils import checkpoint, run_folder

    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    if best and (path / run_folder.BEST).exists():
        path /= run_folder.BEST
    if not path.is_dir():
        try:
            return Start(path, checkpoint.load(path), folder)
        except CheckpointError as error:
            beside = run_folder.whole_beside(path) if folder.is_dir() else []
            hint = f"\n  whole checkpoints beside it: {', '.join(beside)}" if beside else ""
            raise CheckpointError(f"{error}{hint}") from None
    found, state = _newest(path)
    return Start(found, state, folder)


def _is_run(folder: Path) -> bool:
    return (folder / "config.json").exists() and folder.parent.parent.name == "models"


def _newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    from utils import run_folder

    found, state, warnings = run_folder.newest_whole(folder)
    for warning in warnings:
        logging.getLogger("checkpoint").warning(warning)
    return found, state


def _find_run(config: "ConfigParser") -> Start:
    """What `-r auto` continues: the run `run_id`, else the newest unfinished one of the config's name, else nothing."""
    from utils import run_folder

    logger = logging.getLogger("checkpoint")
    models = ROOT / config["trainer"]["save_dir"] / "models" / config["name"]
    if config.run_id is not None:
        folder = models / config.run_id
        if not folder.exists():
            return Start()
        config.lock = run_folder.own(folder)
        return _start_in(folder, logger)
    # Run folders are named by the time, but one with a run_id of its own may be newer.
    folders = [path for path in models.glob("*") if path.is_dir()]
    for folder in sorted(folders, key=_last_written, reverse=True):
        try:
            lock = run_folder.own(folder)
        except ConfigError:
            continue  # in use
        start = _start_in(folder, logger)
        if start.state is None or not start.state["progress"]["finished"]:
            config.lock = lock
            return start
        if lock is not None:
            lock.close()
    return Start()


def _last_written(folder: Path) -> tuple[int, str]:
    """When a run last saved, or began."""
    files = [*folder.glob("checkpoint-*.pth"), *folder.glob("config.json")]
    return max((path.stat().st_mtime_ns for path in files), default=0), folder.name


def _start_in(folder: Path, logger: logging.Logger) -> Start:
    from utils import run_folder

    if run_folder.checkpoints(folder):
        return Start(*_newest(folder), folder)
    logger.warning(f"{folder} holds no checkpoint: starting at epoch 1 in it")
    return Start(folder=folder)
