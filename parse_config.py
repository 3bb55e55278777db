"""ConfigParser: from the command line and a JSON file to a checked config, and from names in it to objects.

Importing this module imports no torch, so that mistakes in a config are told at once.
"""

import argparse
import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from logger.logger import setup_console
from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checkpoints.run import Run
from machinery.config.factory import Factory
from machinery.config.schema import Checked, check, own_keys
from machinery.config.source import Source, dotted, leaves, read_source, to_plain
from machinery.errors import catch_user_errors
from machinery.files import ROOT, ensure_dir
from machinery.launch import Launch, add_options, read_command


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

    `config["trainer"]["epochs"]` gives the values that the user wrote; `config.settings` the same typed, with defaults.
    Nothing is written before `save_dir` or `log_dir` is first used.

    Args:
        config: the values of a config, or the path of one.
        resume: a checkpoint file of the run to continue.
        modification: keys to set, as {"optimizer;args;lr": 0.1}; None values are skipped.
        run_id: the name of the run's folder; by default the time of its start.
        launch: what is to be done, in place of `resume` and `run_id`.

    Raises:
        ConfigError: with all problems of the config.
    """

    def __init__(
        self,
        config: Any,
        resume: str | Path | None = None,
        modification: Mapping[Any, Any] | None = None,
        run_id: str | None = None,
        launch: Launch | None = None,
    ) -> None:
        setup_console()
        if isinstance(config, str | Path):
            config = read_source(Path(config))
        if not isinstance(config, Checked):
            config = check(
                config if isinstance(config, Source) else Source(to_plain(config)), modification
            )
        super().__init__(config)
        distributed.set_timeout(self.settings.trainer.timeout)
        logger = self.get_logger("config", self.settings.trainer.verbosity)
        for path, near, _ in own_keys(config.source):
            level, hint = (logging.WARNING, f", beside {near}") if near else (logging.DEBUG, "")
            logger.log(level, f"{dotted(path)} is a key of your own{hint}")
        task: Any = "train" if resume is None else "continue"
        #: What is to be done, and the parsed command line.
        self.launch = launch or Launch(
            task, checkpoint=None if resume is None else Path(resume), run_id=run_id
        )
        self._run: Run | None = None

    @classmethod
    def from_args(
        cls,
        args: argparse.ArgumentParser,
        options: Iterable[Any] = (),
        evaluating: bool = False,
        partial: bool = True,
    ) -> "ConfigParser":
        """Parse the command line (`sys.argv`) and read the config that it names.

        Args:
            args: a parser; the common options are added where it lacks them.
            options: `CustomArgs`, or the like.
            evaluating: a run folder stands for its best checkpoint, and nothing is written.
            partial: a config beside `-r` gives only what differs from the checkpoint's, as in the classic template.
        """

        catch_user_errors()
        targets = add_options(args, options, evaluating)
        parsed = args.parse_args()
        if parsed.resume is not None and parsed.config == args.get_default("config"):
            parsed.config = None  # nobody has typed it
        if parsed.device is not None:
            for variable in (
                "CUDA_VISIBLE_DEVICES",
                "ZE_AFFINITY_MASK",
            ):  # NVIDIA's and AMD's, Intel's
                os.environ[variable] = parsed.device
        setup_console()
        typed = {targets[name]: getattr(parsed, name) for name in targets}
        checked, launch = distributed.from_main(
            lambda: read_command(parsed, typed, evaluating, partial)
        )
        if not distributed.LAUNCHED:
            distributed.spread(parsed.device, checked.settings.n_gpu)
        return cls(checked, launch=launch)

    def get_logger(self, name: str, verbosity: int = 2) -> logging.Logger:
        """A logger at the level of a verbosity: 0 warnings, 1 information, 2 details."""
        logger = logging.getLogger(name)
        logger.setLevel({0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}[verbosity])
        return logger

    @property
    def config(self) -> dict[str, Any]:
        """The whole config, as the user wrote it."""
        return self._values

    def snapshot(self) -> Any:
        """The config as it was when the process started, in plain containers."""
        return to_plain(self.source.values)

    @property
    def resume(self) -> Path | None:
        """The checkpoint to start from."""
        return self.launch.checkpoint

    @property
    def save_dir(self) -> Path:
        """The folder of the run's checkpoints; made at the first use."""
        return self.run.folder

    @property
    def log_dir(self) -> Path:
        """The folder of the run's logs; made at the first use."""
        return self.run.log_dir

    @property
    def run(self) -> Run:
        """The run: that of the checkpoint where one goes on or is evaluated, else a new one, made at the first use."""
        if self._run is None:
            launch = self.launch
            if launch.task == "evaluate":
                assert launch.checkpoint is not None
                self._run = Run(launch.checkpoint.parent, owned=False)
            else:
                self._run = launch.run or distributed.from_main(
                    lambda: Run(self._folder(), stays=not launch.checking)
                )
                ensure_dir(self._run.log_dir)
        return self._run

    def _folder(self) -> Path:
        launch, name = self.launch, self.settings.name
        models = ROOT / self.settings.trainer.save_dir / "models" / name
        if launch.checking:
            run_folder.check_possible(models)
            scratch = tempfile.mkdtemp()
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
            return run_folder.create(Path(scratch) / "models" / name, "check")
        if launch.task == "continue" and launch.checkpoint is not None:
            return launch.checkpoint.parent
        return run_folder.create(models, launch.run_id)

    def flat(self) -> dict[str, bool | str | int | float]:
        """What the user has set, by dotted path, for TensorBoard's hyper-parameters page."""
        values = {
            dotted(path): value
            for path, value in leaves(self.source.values)
            if path != ("$schema",)
        }
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, bool | str | int | float)
        }
