"""What a run tells: messages (`logger.py`), and numbers (`visualization.py`): TensorBoard, a table, a file."""

from logger.logger import setup_logging as setup_logging
from logger.visualization import TensorboardWriter as TensorboardWriter
