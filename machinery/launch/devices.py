"""Whether there are the GPUs that a command line names."""

import os
import subprocess
import sys
from pathlib import Path

from machinery import distributed
from machinery.errors import ConfigError

#: Variables of the environment that hide GPUs: NVIDIA's and AMD's, Intel's.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")
#: Of these, a Linux with GPUs that torch can use has one.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/dri")
_COUNT = "import torch; print(torch.accelerator.device_count())"


def check_devices(devices: str | None) -> None:
    """Refuse ids of GPUs that are not there, on a machine that has some.

    Where there are none, the CPU stands in for them.

    Args:
        devices: as the command line names them, and nothing else can be seen by now.

    Raises:
        ConfigError: with how many there are.
    """
    named = _named(devices or "")
    if not named or distributed.launched() or not _may_have_gpus():
        return
    import torch

    usable = torch.accelerator.device_count()
    if usable >= len(named):
        return
    there = _all_there_are()
    if there > 0:
        what = f"{usable} of these can be used; the ids of this machine's GPUs are below {there}"
        raise ConfigError(f"-d {devices}: {what}; -d -1 takes the CPU")


def _named(devices: str) -> set[str]:
    """The GPUs that are named; a negative number ends the list, as in CUDA_VISIBLE_DEVICES."""
    found: set[str] = set()
    for name in devices.split(","):
        if name.strip().startswith("-"):
            break
        found.add(name.strip())
    return found - {""}


def _may_have_gpus() -> bool:
    """Whether it is worth the time to ask torch."""
    return sys.platform != "linux" or any(Path(driver).exists() for driver in _DRIVERS)


def _all_there_are() -> int:
    """How many GPUs there are, also those that this process has hidden from itself."""
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    counted = subprocess.run(
        [sys.executable, "-c", _COUNT], env=environment, capture_output=True, text=True, check=False
    )
    try:
        return int(counted.stdout)
    except ValueError:  # a driver that does not answer
        return 0
