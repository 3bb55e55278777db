"""What an update and an evaluation do."""

from trainer.trainer import Trainer as Trainer
