"""From a command line to what is to be done, and with which config."""

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Literal

from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.config.changes import set_option
from machinery.config.checking import Checked, Seeding, check
from machinery.config.source import Source, differences, replace
from machinery.config.trust import check_foreign
from machinery.config.variables import check_known
from machinery.errors import ConfigError
from machinery.files import ROOT, shown
from machinery.launch.auto import find_run
from machinery.launch.devices import check_devices
from machinery.launch.launch import Launch
from machinery.launch.options import Command
from machinery.launch.sizes import refuse_too_many
from machinery.launch.start import read_start

#: Sections of which an evaluation builds nothing, one that has no data, and what has its weights.
_OF_TRAINING = ("lr_scheduler",)
_OF_STARTS = ("arch.starting_args",)
_WITHOUT_DATA = ("data_loader", "valid_data_loader", "test_data_loader")


def read_command(command: Command, evaluating: bool, partial: bool) -> tuple[Checked, Launch]:
    """The config that a parsed command line means, and what is to be done with it.

    Args:
        command: the command line.
        evaluating, partial: as in `ConfigParser.from_args`.

    Raises:
        ConfigError: the command line or the config is wrong, or another process owns the run.
        CheckpointError: the checkpoint cannot be read.
    """
    args = command.args
    auto = args.resume == "auto" and not evaluating
    _refuse_too_little(args, evaluating, auto)
    run_folder.check_run_id(args.run_id)
    launch = Launch(run_id=args.run_id, args=args, script=_script(evaluating))
    launch.own_words, launch.takes_set = command.own_words, command.takes_set
    if "check" in args:  # there is no such option where one evaluates
        launch.checking = args.check
    if args.resume is not None and not auto:
        launch.task = _task(args, evaluating)
        read_start(launch, args.resume)
    checked = check(_read_source(launch, partial), command.modification, partial)
    check_devices(args.device)
    if launch.trains:
        check_known(checked.source)
    if auto and launch.checking:
        launch.run_id = None  # its folder may be there
    elif auto:
        find_run(launch, checked)
    launch.starting_weights(checked)  # they may be missing
    if launch.continues:
        _continue(launch, checked, moved=auto)
    return checked._replace(seeding=_seeding(launch, checked, partial)), launch


def read_run(path: str | Path) -> tuple[Checked, Launch]:
    """The config of a checkpoint, or of a run folder's best, which is to be evaluated."""
    launch = Launch("evaluate", args=argparse.Namespace(config=None, set=[]))
    read_start(launch, str(path))
    source = _read_source(launch, partial=False, unused=_WITHOUT_DATA)
    checked = check(source, classic=True)  # some script has trained with it
    return checked._replace(seeding=_seeding(launch, checked, by_script=False)), launch


def _seeding(launch: Launch, checked: Checked, by_script: bool) -> Seeding:
    """Whose seed the run has, where its config says none.

    Args:
        by_script: the script is not the template's own, and may have set one.
    """
    if "seed" in checked.source.values:
        return Seeding()
    content = launch.content()
    if launch.begins or content is None:
        return Seeding(of_script=by_script)
    progress = content.get("progress") or {}
    if progress.get("seeded_by_script"):
        return Seeding(of_run=int(progress["seed"]))
    return Seeding(of_script=by_script and "seed" not in progress)


def _refuse_too_little(args: argparse.Namespace, evaluating: bool, auto: bool) -> None:
    """Refuse a command line that does not say what to work on."""
    config = shlex.quote(shown(ROOT / "config.json"))
    if auto and args.config is None:
        raise ConfigError(f"-r auto needs the config of the run: -c {config} -r auto")
    if args.resume is not None:
        return
    if evaluating:
        raise ConfigError("say what to evaluate: -r CHECKPOINT")
    if args.config is None:
        raise ConfigError(f"say what to train: -c {config}, or to continue a run: -r CHECKPOINT")


def _script(evaluating: bool) -> Path:
    """The training script: the one that was started, unless that is none, or evaluates."""
    started = Path(sys.argv[0])
    if evaluating or started.suffix != ".py":
        return ROOT / "train.py"
    return started.absolute()


def _task(
    args: argparse.Namespace, evaluating: bool
) -> Literal["continue", "fine-tune", "evaluate"]:
    """What is to be done with the checkpoint that a command line names."""
    if evaluating:
        return "evaluate"
    if args.config is None:
        return "continue"
    return "fine-tune"


def _read_source(launch: Launch, partial: bool, unused: tuple[str, ...] = ()) -> Source:
    """The values of the file, or of the checkpoint, with what `--set` changes.

    Args:
        unused: sections of which nothing is built.
    """
    args = launch.args
    if not launch.trains:
        unused = (*unused, *_OF_TRAINING)
    if not launch.makes_weights:
        unused = (*unused, *_OF_STARTS)
    if args.config is None:
        source = _saved_source(launch)
        if partial:
            source = _with_edits(launch, source)
        elif launch.continues:
            _warn_of_edits(launch, source)
    elif partial and launch.fine_tunes:
        source = _saved_source(launch)
        replace(source, Source.read(Path(args.config)))
    else:
        source = Source.read(Path(args.config))
    for text in args.set:
        set_option(source, text)
    if source.name == str(launch.checkpoint):
        check_foreign(source, launch.trains, launch.fine_tunes, unused)
    if args.config is None:
        refuse_too_many(source)
    return source


def _with_edits(launch: Launch, saved: Source) -> Source:
    """The values that the run's config.json has by now, as the classic template reads them.

    They are no more the user's word than those of the checkpoint: both may come from elsewhere.

    Raises:
        ConfigError: it cannot be parsed.
    """
    edited = _run_config(launch)
    if edited is None or not differences(saved, edited):
        return saved
    changes = [change.told() for change in differences(saved, edited)]
    what = f"{edited.name} counts, as it is now: {', '.join(changes)}"
    logging.getLogger("config").info(what)
    return Source.of(edited.values, name=saved.name)


def _warn_of_edits(launch: Launch, saved: Source) -> None:
    """Say that the run's config.json, which is a record, says otherwise than the checkpoint."""
    try:
        edited = _run_config(launch)
    except ConfigError:  # whatever it is, it is written anew
        return
    if edited is None:
        return
    for change in differences(saved, edited)[:3]:
        what = f"{edited.name} is a record, and the checkpoint's config counts"
        logging.getLogger("config").warning(f"{what}, not {change.told()}")


def _run_config(launch: Launch) -> Source | None:
    """The config.json beside the checkpoint of a run; None where there is none."""
    assert launch.checkpoint is not None
    folder = launch.checkpoint.parent
    path = folder / "config.json"
    if folder.parent.parent.name != "models" or not path.is_file() or path.is_symlink():
        return None
    return Source.read(path)


def _saved_source(launch: Launch) -> Source:
    """The values of the checkpoint."""
    return Source.of(launch.content()["config"], name=str(launch.checkpoint))


def _continue(launch: Launch, checked: Checked, moved: bool) -> None:
    """Note what differs from the config of the checkpoint, and take its folder.

    Args:
        moved: the run was found where the config says; its own may say another name or folder.
    """
    assert launch.checkpoint is not None
    launch.changes += differences(_saved_source(launch), checked.source)
    for change in launch.changes:
        if change.key in ("name", "trainer.save_dir") and not moved:
            what = "a run that is continued with -r keeps its name and its folder"
            raise ConfigError(f"{change.key}: {what}")
    if launch.run is None and not launch.checking:
        launch.run = Run(launch.checkpoint.parent)  # nothing stands in the way any more
