"""At the end of the training, the best model is tested."""

import test
from config.launch import read_run
from parse_config import ConfigParser
from trainer import Trainer


class TestedTrainer(Trainer):
    """Runs what `python test.py -r RUN` does, once the run is at its end."""

    def train(self) -> None:
        """Train, and test."""
        super().train()
        if not self.config.launch.checking:
            checked, launch = read_run(self.checkpoint_dir)
            test.main(ConfigParser(checked, launch=launch), "test")
