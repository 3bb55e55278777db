"""How far an epoch has come, on a terminal."""

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(label: str, done: int, total: int) -> "tqdm[Any]":
    """A bar of batches; elsewhere than on a terminal it shows nothing."""
    hidden = not sys.stderr.isatty()
    return tqdm(total=total, initial=done, desc=label, unit="batch", leave=False, disable=hidden)
