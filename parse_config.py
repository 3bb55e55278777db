"""ConfigParser: from the command line and a JSON file to a checked config, and from names in it to objects.

Importing this module imports no torch, so that mistakes in a config are told at once.
"""

import argparse
import atexit
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from config.factory import Factory
from utils.errors import catch_user_errors
from utils.files import ROOT, ensure_dir

if TYPE_CHECKING:
    from utils.run_folder import Lock


class CustomArgs(NamedTuple):
    """A command-line option that sets one key of the config.

    Args:
        flags: such as ["--lr", "--learning_rate"].
        type: of the value.
        target: the key, as "optimizer;args;lr" or ("optimizer", "args", "lr").
    """

    flags: list[str]
    type: Callable[[str], Any]
    target: str | tuple[str, ...]


class ConfigParser(Factory):
    """A checked config, the objects that it names, and the folders of its run.

    `config["trainer"]["epochs"]` gives plain values, with defaults filled in. Nothing is written before `save_dir` or
    `log_dir` is first used.

    Args:
        config: the values of a config, or a `Source` that knows their places.
        resume: a checkpoint file of the run to continue.
        modification: keys to set, as {"optimizer;args;lr": 0.1}; None values are skipped.
        run_id: the name of the run's folder; by default the time of its start.

    Raises:
        ConfigError: with all problems of the config.
        CheckpointError: the checkpoint cannot be read.
    """

    def __init__(
        self,
        config: Any,
        resume: str | Path | None = None,
        modification: Mapping[Any, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        from config.schema import known, unknown, validate
        from config.source import Source, dotted, override, to_plain
        from logger.logger import setup_console

        setup_console()
        source = config if isinstance(config, Source) else Source(to_plain(config))
        for target, value in (modification or {}).items():
            if value is not None:
                path = tuple(target.split(";")) if isinstance(target, str) else tuple(target)
                override(source, path, value, f"command line ({dotted(path)})", known)
        super().__init__(source, validate(source))
        own = unknown(source)
        if own:
            self.get_logger("config", self["trainer"]["verbosity"]).debug(f"keys of your own: {', '.join(own)}")
        self.resume = Path(resume) if resume is not None else None
        self.run_id = run_id
        #: The parsed command line, if there was one.
        self.args = argparse.Namespace()
        #: Whether only to evaluate: then nothing is written.
        self.evaluating = False
        #: Whether to try everything on one batch only; then nothing that is written stays.
        self.checking = False
        #: Whether `resume` only gives the first weights of a new run.
        self.fine_tune = False
        #: (dotted path, old value, new value) of what differs from the config of the checkpoint.
        self.changes: list[tuple[str, Any, Any]] = []
        #: Holds the run folder for this process.
        self.lock: Lock | None = None
        self._checkpoint: dict[str, Any] | None = None
        self._folder = None if self.resume is None else self.resume.parent
        self._save_dir: Path | None = None
        self._log_dir: Path | None = None

    @classmethod
    def from_args(
        cls, args: argparse.ArgumentParser | argparse.Namespace, options: Iterable[Any] = (), evaluating: bool = False
    ) -> "ConfigParser":
        """Parse the command line (`sys.argv`) and read the config that it names.

        Args:
            args: a parser with the options -c, -r and -d; the other common options are added.
            options: `CustomArgs`, or the like.
            evaluating: a run folder stands for its best checkpoint, and nothing is written.
        """
        from config import command_line

        catch_user_errors()
        options = list(options)
        if isinstance(args, argparse.ArgumentParser):
            command_line.add_options(args, options, evaluating)
            args = args.parse_args()
        if args.device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = args.device
        modification = {option.target: getattr(args, command_line.option_name(option.flags)) for option in options}
        return command_line.load(cls, args, modification, evaluating)

    def get_logger(self, name: str, verbosity: int = 2) -> logging.Logger:
        """A logger at the level of a verbosity: 0 warnings, 1 information, 2 details."""
        logger = logging.getLogger(name)
        logger.setLevel({0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}[verbosity])
        return logger

    @property
    def config(self) -> dict[str, Any]:
        """The whole config, with defaults."""
        return self._config

    @property
    def save_dir(self) -> Path:
        """The folder of the run's checkpoints; made at the first use."""
        if self._save_dir is None:
            self._make_folders()
        assert self._save_dir is not None
        return self._save_dir

    @property
    def log_dir(self) -> Path:
        """The folder of the run's logs; made at the first use."""
        if self._log_dir is None:
            self._make_folders()
        assert self._log_dir is not None
        return self._log_dir

    def continue_in(self, folder: Path) -> None:
        """Go on in the folder of an earlier run."""
        self._folder = folder

    def _make_folders(self) -> None:
        from logger.logger import setup_logging
        from utils import run_folder

        if self.checking:
            scratch = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
            run = run_folder.create(Path(scratch) / "models" / self["name"], "check")
        elif self._folder is not None and not self.fine_tune:
            run = self._folder
        else:
            run = run_folder.create(ROOT / self["trainer"]["save_dir"] / "models" / self["name"], self.run_id)
        self._save_dir, self._log_dir = run, run.parent.parent.parent / "log" / run.parent.name / run.name
        self.lock = self.lock or run_folder.own(run)
        ensure_dir(self._log_dir)
        setup_logging(self._log_dir)

    def give_checkpoint(self, state: dict[str, Any] | None) -> None:
        """Set the content of the checkpoint to start from, which has been read already."""
        self._checkpoint = state

    def take_checkpoint(self) -> dict[str, Any] | None:
        """The content of the checkpoint to start from, once; None for a run that starts afresh."""
        if self._checkpoint is None and self.resume is not None:
            from utils import checkpoint

            self._checkpoint = checkpoint.load(self.resume)
        state, self._checkpoint = self._checkpoint, None
        return state

    def as_markdown(self) -> str:
        """The config as a block of JSON, for TensorBoard's text page."""
        return f"```json\n{json.dumps(self._config, indent=4)}\n```"

    def described(self) -> list[str]:
        """A line for each value: where it is in the config, what it is, and where it came from."""
        from config.source import dotted, leaves

        given = {path for path, _ in leaves(self._source.values)}
        rows = [
            (f"{dotted(path)} = {json.dumps(value, ensure_ascii=False)}", path) for path, value in leaves(self._config)
        ]
        width = max(len(text) for text, _ in rows)
        return [f"{text:<{width}}  {self.where(*path) if path in given else 'default'}" for text, path in rows]

    def flat(self) -> dict[str, bool | str | int | float]:
        """Plain values by dotted path, for TensorBoard's hyper-parameters page."""
        from config.source import leaves

        plain = {path: value for path, value in leaves(self._config) if isinstance(value, bool | str | int | float)}
        return {".".join(map(str, path)): value for path, value in plain.items()}


if __name__ == "__main__":
    sys.exit("parse_config.py is imported by train.py and test.py: run python train.py -c config.json")
