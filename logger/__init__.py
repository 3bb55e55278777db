"""What a run tells: messages (logger.py, progress.py), and numbers (writers.py, and theirs)."""

from logger.logger import setup_logging as setup_logging
from logger.visualization import TensorboardWriter as TensorboardWriter
