"""What a run tells: messages (`logger.py`), TensorBoard (`visualization.py`) and a table of epochs (`table.py`)."""

from logger.logger import setup_logging as setup_logging
from logger.visualization import TensorboardWriter as TensorboardWriter
