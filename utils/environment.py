"""What a run was made of: code, versions, machine and command line."""

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import torch

from utils import distributed
from utils.files import ROOT

#: Fields whose change can change the bits of a resumed run.
DECISIVE = ("python", "torch", "numpy", "device", "threads", "processes", "cpu_capability", "git_commit", "git_dirty")


def describe(device: torch.device | None) -> dict[str, Any]:
    """The environment as plain data, for environment.json and the checkpoint."""
    kind = device.type if device is not None else "cpu"
    named = hasattr(getattr(torch, kind, None), "get_device_name")  # torch.cuda and torch.xpu
    return {
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": getattr(torch, kind).get_device_name(device) if named else kind,
        "threads": torch.get_num_threads(),
        "processes": distributed.SIZE,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def crowded() -> str:
    """Advice for a machine whose load leaves fewer cores than this process has threads; empty if there are enough."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the last minute
    if threads == 1 or cores - load > threads - 0.5:
        return ""
    advice = f"--set trainer.threads={max(int(cores - load), 1)} may be faster"
    return f"{threads} threads on {cores} cores that have a load of {load:.1f} already: {advice}"


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
