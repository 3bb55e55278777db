"""Locks of a sweep: of the processes on one disk, one at a time holds each."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from machinery.errors import StorageError


@contextlib.contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file.

    Args:
        wait: until nobody else holds it; else it is False where somebody does.

    Raises:
        StorageError: the file cannot be written.
    """
    try:  # a link that stands there is not followed
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror}") from error
    try:
        yield _take(descriptor, wait)
    finally:
        os.close(descriptor)


def _take(descriptor: int, wait: bool) -> bool:
    """Take the lock of an open file; whether it is held now."""
    if wait:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
