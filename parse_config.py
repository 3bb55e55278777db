"""ConfigParser: from the command line and a JSON file to a checked config, and to its objects.

Importing this module imports no torch, so that mistakes in a config are told at once.
"""

import argparse
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from logger.logger import setup_console
from machinery import distributed, launch as launching, torchrun
from machinery.checkpoints.run import Run
from machinery.config.checking import checked_config
from machinery.config.factory import Factory
from machinery.launch import Launch
from machinery.telling import catch_user_errors


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

    `config["trainer"]["epochs"]` gives the values that the user wrote; `config.settings` the same
    typed, with defaults. Nothing is written before `save_dir` or `log_dir` is first used.

    Args:
        config: the values of a config, or the path of one.
        resume: a checkpoint file of the run to continue.
        modification: keys to set, as {"optimizer.args.lr": 0.1}; None values are skipped.
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
        checked = checked_config(config, modification)
        super().__init__(checked)
        distributed.set_timeout(self.settings.trainer.timeout)
        self.get_logger("checkpoint", self.settings.trainer.verbosity)
        checked.tell_own_keys(self.get_logger("config", self.settings.trainer.verbosity))
        if launch is None:
            launch = Launch(run_id=run_id)
            if resume is not None:
                launch = Launch("continue", checkpoint=Path(resume), run_id=run_id)
        #: What is to be done, and the parsed command line.
        self.launch = launch
        self._run: Run | None = None

    @classmethod
    def from_args(
        cls,
        args: argparse.ArgumentParser,
        options: Iterable[Any] = (),
        *,
        evaluating: bool = False,
        partial: bool = True,
    ) -> "ConfigParser":
        """Parse the command line (`sys.argv`) and read the config that it names.

        Args:
            args: a parser; the common options are added where it lacks them.
            options: `CustomArgs`, or the like.
            evaluating: a run folder stands for its best checkpoint, and nothing is written.
            partial: a config beside `-r` gives only what differs from the checkpoint's, as in the
                classic template.
        """
        catch_user_errors()
        command = launching.parse(args, options, evaluating)
        setup_console()
        checked, launch = distributed.from_main(
            lambda: launching.read_command(command, evaluating, partial)
        )
        if not distributed.launched():
            torchrun.spread(command.args.device, checked.settings.n_gpu)
        return cls(checked, launch=launch)

    def get_logger(self, name: str, verbosity: int = 2) -> logging.Logger:
        """A logger at the level of a verbosity: 0 warnings, 1 information, 2 details."""
        levels = [logging.WARNING, logging.INFO, logging.DEBUG]
        logger = logging.getLogger(name)
        logger.setLevel(levels[verbosity])
        return logger

    @property
    def config(self) -> dict[str, Any]:
        """The whole config, as the user wrote it."""
        return self._values

    def snapshot(self) -> Any:
        """The config as it was when the process started, in plain containers."""
        return self.source.snapshot()

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
        """The run: that of the checkpoint where one goes on or is evaluated, else a new one.

        It is opened at the first use.
        """
        if self._run is None:
            self._run = launching.open_run(self.launch, self.settings.runs_folder)
        return self._run
