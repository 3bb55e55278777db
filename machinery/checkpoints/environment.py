"""What a run was made of: code, versions, machine and command line."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machinery import distributed
from machinery.checkpoints.fingerprint import fingerprint
from machinery.files import ROOT, replacing

#: Fields whose change cannot change the bits of a resumed run.
ASIDE = ("command", "platform", "host")
_GIT = ("git", "-c", "diff.suppressBlankEmpty=false", "-c", "core.fsmonitor=false")
#: A diff that `git apply` takes, whatever the user's settings are.
_DIFF = (
    "diff",
    "HEAD",
    "--no-relative",
    "-O/dev/null",
    "--binary",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "-U3",
)


def describe(device: torch.device | None, dataset: Any = None) -> dict[str, Any]:
    """The environment as plain data, for environment.json and the checkpoint.

    Args:
        device: that trains.
        dataset: to train on, if there is one.
    """
    return {
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "processes": distributed.size(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": _git("rev-parse", "HEAD").decode().strip() or None,
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "data": fingerprint(dataset),
    }


def _device_name(device: torch.device | None) -> str:
    """What the maker calls the device, where torch knows it; else its kind."""
    if device is None:
        return "cpu"
    if hasattr(torch, device.type):
        module = getattr(torch, device.type)
        if hasattr(module, "get_device_name"):  # torch.cuda and torch.xpu
            return str(module.get_device_name(device))
    return device.type


def crowded() -> str:
    """Advice for a machine whose load leaves fewer cores than this process has threads.

    Empty if there are enough.
    """
    threads = torch.get_num_threads()
    cores = _cores()
    load = _load()
    if threads == 1 or cores - load > threads - 0.5:
        return ""
    advice = f"--set trainer.threads={max(int(cores - load), 1)} may be faster"
    return f"{threads} threads on {cores} cores that have a load of {load:.1f} already: {advice}"


def _cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load() -> float:
    """How many cores were busy in the last minute, where the system says so."""
    if hasattr(os, "getloadavg"):
        return os.getloadavg()[0]
    return 0.0


def keep_changes(folder: Path) -> None:
    """Keep what the code differs by from its commit: `git apply` makes it again from there.

    Raises:
        StorageError: it cannot be written.
    """
    changes = _git(*_DIFF)
    if changes:
        digest = hashlib.sha256(changes).hexdigest()[:12]
        with replacing(folder / f"changes-{digest}.diff") as file:
            file.write(changes)


def _git(*words: str) -> bytes:
    """What a git command prints; nothing where it fails, or where there is no git."""
    try:
        return subprocess.run(
            [*_GIT, *words],
            cwd=ROOT,
            env=_git_environment(),
            capture_output=True,
            check=True,
            timeout=10,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return b""


def _git_environment() -> dict[str, str]:
    """The environment without a git hook's variables, which may be of another repository."""
    kept = {}
    for name, value in os.environ.items():
        if not name.startswith("GIT_") or "CONFIG" in name:
            kept[name] = value
    return kept


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The fields that differ and can change the bits of a resumed run, as lines."""
    lines = []
    for field, value in now.items():
        if field in ASIDE or field not in before:
            continue
        if before[field] != value:
            lines.append(f"{field} {before[field]} -> {value}")
    return lines
