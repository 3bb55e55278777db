"""What every project needs and nobody has to edit; the classic names are found here too."""

from typing import Any

_CLASSIC = ("MetricTracker", "ensure_dir", "inf_loop", "prepare_device", "read_json", "write_json")


def __getattr__(name: str) -> Any:
    # Reading a config must not wait for torch, which some of these need.
    if name in _CLASSIC:
        from utils import util

        return getattr(util, name)
    if name == "load_run":
        import train

        return train.load_run
    raise AttributeError(f"module 'utils' has no attribute {name!r}")
