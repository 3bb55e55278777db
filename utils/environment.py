"""What a run was made of: code, versions, machine and command line."""

import platform
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from utils.files import ROOT

#: Fields whose change can change the bits of a resumed run.
DECISIVE = ("python", "torch", "numpy", "device", "threads", "cpu_capability", "git_commit", "git_dirty")


def describe(device: torch.device | None) -> dict[str, Any]:
    """The environment as plain data, for environment.json and the checkpoint."""
    gpu = torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None
    return {
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": gpu or "cpu",
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The decisive fields that differ, as lines."""
    return [
        f"{field} {before[field]} -> {now[field]}"
        for field in DECISIVE
        if field in before and before[field] != now[field]
    ]
