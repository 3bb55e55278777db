"""What a run tells: messages (`logger.py`), TensorBoard (`visualization.py`) and a table of epochs (`table.py`)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from logger.logger import setup_logging
    from logger.visualization import TensorboardWriter

__all__ = ["TensorboardWriter", "setup_logging"]


def __getattr__(name: str) -> Any:
    if name == "setup_logging":
        from logger.logger import setup_logging

        return setup_logging
    if name == "TensorboardWriter":
        from logger.visualization import TensorboardWriter

        return TensorboardWriter
    raise AttributeError(f"module 'logger' has no attribute {name!r}")
