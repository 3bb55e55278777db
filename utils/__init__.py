"""What code of your own imports: the classic helpers, and names of the machinery that the docs
teach."""

import importlib
from typing import TYPE_CHECKING, Any

from machinery import distributed as distributed
from machinery.errors import (
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    Stopped as Stopped,
    StorageError as StorageError,
)
from machinery.files import ROOT as ROOT, project_path as project_path, replacing as replacing
from machinery.telling import catch_user_errors as catch_user_errors

if TYPE_CHECKING:
    from machinery.order import seeding as seeding
    from machinery.order.seeding import uniform_rows as uniform_rows
    from machinery.order.split import DatasetMaker as DatasetMaker
    from machinery.update.runtime import unwrap as unwrap, whole_batch as whole_batch
    from utils.util import (
        MetricTracker as MetricTracker,
        ensure_dir as ensure_dir,
        inf_loop as inf_loop,
        prepare_device as prepare_device,
        read_json as read_json,
        write_json as write_json,
    )

#: The classic helpers; a project may have a utils/util.py of its own.
CLASSIC = ("MetricTracker", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json")
#: Where the others are that need torch: reading a config must not wait for it.
_LATER = {
    "DatasetMaker": "machinery.order.split",
    "uniform_rows": "machinery.order.seeding",
    "unwrap": "machinery.update.runtime",
    "whole_batch": "machinery.update.runtime",
}


def __getattr__(name: str) -> Any:
    if name in CLASSIC:
        return getattr(importlib.import_module("utils.util"), name)
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name == "seeding":
        return importlib.import_module("machinery.order.seeding")
    if name == "__all__":  # from utils import *
        return _public()
    if not name.startswith("_"):  # a helper of your own in utils/util.py
        helpers = importlib.import_module("utils.util")
        if name in vars(helpers):
            return vars(helpers)[name]
    raise AttributeError(f"module 'utils' has no attribute {name!r}")


def _public() -> list[str]:
    """The names that `from utils import *` gives: those of utils/util.py."""
    helpers = importlib.import_module("utils.util")
    public = [name for name in vars(helpers) if not name.startswith("_")]
    return list(getattr(helpers, "__all__", public))
