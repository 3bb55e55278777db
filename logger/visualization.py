"""The writers of numbers under the classic name of their module; each is in a file of its own."""

from logger.metrics_file import MetricsFile as MetricsFile
from logger.table import EpochTable as EpochTable
from logger.tensorboard import TensorboardWriter as TensorboardWriter
from logger.writers import Writer as Writer, Writers as Writers, row_of_epoch as row_of_epoch
