"""Settings of the test run: one thread for each process, the project importable, loggers as they
were."""

import gc
import logging
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a kill leaves is the same without waiting for the disk, and no test pulls the plug: that
# files are synced, and when, is seen by the calls.
os.fsync = lambda descriptor: None
gc.disable()  # until all is imported, which is kept

#: Files that take long, and are begun with: a worker that had one of them last would let the others
#: wait.
LONG = (
    "launch",
    "new_project",
    "together",
    "examples",
    "sweep",
    "failures",
    "commands",
    "components",
    "trackers",
    "resume",
)


def pytest_collection_modifyitems(items):
    """Long files first."""
    first = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: first.get(item.path.stem, len(LONG)))


def pytest_collection_finish():
    """The imported half a million objects are not looked through in each search for garbage."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def own_logging(capfd):
    """Each test has its own handlers and levels: a run leaves those of its own behind."""
    for name in ("checkpoint", "trainer", "config"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers) - set(before):
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def messages(capfd):
    """What has been printed so far."""
    return lambda: capfd.readouterr().out
