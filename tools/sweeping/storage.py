"""Where the points of a sweep are noted: a journal in its folder, or a database."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from machinery.errors import ConfigError, StorageError, UserError

_LONGEST_MESSAGE = 400


@contextlib.contextmanager
def reaching(url: str | None, journal: Path) -> Iterator[None]:
    """Within it, a storage that cannot be used is told.

    Raises:
        ConfigError: it cannot be reached, or is damaged.
        StorageError: it cannot be written.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise StorageError(f"{journal} cannot be written: {error.strerror}") from error
    except Exception as error:  # whatever a database's driver, or a damaged journal, raises
        problem = f"cannot be used: {type(error).__name__}: {error}"
        told = f"{journal} {problem}"
        if url is not None:
            told = _without_password(f"--storage {url} {problem}", url)
        raise ConfigError(told[:_LONGEST_MESSAGE]) from None


def _without_password(text: str, url: str) -> str:
    """A text without the password of a URL, such as mysql://user:password@host/name."""
    secret = re.search(r"://[^/@]*?:([^/]*)@", url)
    if secret is None or not secret[1]:
        return text
    return text.replace(secret[1], "***")


def opened(url: str | None, journal: Path) -> BaseStorage:
    """Where the points are noted."""
    if url is not None:
        return RDBStorage(url)
    if journal.exists():
        _mend(journal)
    return JournalStorage(JournalFileBackend(str(journal)))


def _mend(journal: Path) -> None:
    """Cut off a last line that a kill, or a full disk, has left unfinished.

    What comes next would be lost, too.
    """
    if not journal.is_file() or journal.is_symlink():
        raise ConfigError(f"{journal} is no file")
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(journal, whole)
