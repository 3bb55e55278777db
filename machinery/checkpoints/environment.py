"""What a run was made of: code, versions, machine and command line."""

import contextlib
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
from machinery.files import ROOT, replacing

#: Fields whose change cannot change the bits of a resumed run.
ASIDE = ("command", "platform", "host")
_GIT = ("git", "-c", "diff.suppressBlankEmpty=false", "-c", "core.fsmonitor=false")


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
        "git_commit": _git("rev-parse", "HEAD").decode().strip() or None,
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def crowded() -> str:
    """Advice for a machine whose load leaves fewer cores than this process has threads; empty if there are enough."""
    threads = torch.get_num_threads()
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of the last minute
    if threads == 1 or cores - load > threads - 0.5:
        return ""
    advice = f"--set trainer.threads={max(int(cores - load), 1)} may be faster"
    return f"{threads} threads on {cores} cores that have a load of {load:.1f} already: {advice}"


def keep_changes(folder: Path) -> None:
    """Keep what the code differs by from its commit: `git apply` makes it again from there.

    Raises:
        StorageError: it cannot be written.
    """
    plain = [
        "--binary",
        "--no-ext-diff",
        "--no-textconv",
        "--no-color",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        "-U3",
    ]
    changes = _git("diff", "HEAD", "--no-relative", "-O/dev/null", *plain)
    if changes:
        with replacing(folder / f"changes-{hashlib.sha256(changes).hexdigest()[:12]}.diff") as file:
            file.write(changes)


def _git(*words: str) -> bytes:
    # A hook's variables may be of another repository.
    options: Any = {
        "env": {k: v for k, v in os.environ.items() if k[:4] != "GIT_" or "CONFIG" in k}
    }
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            [*_GIT, *words], cwd=ROOT, capture_output=True, check=True, timeout=10, **options
        ).stdout
    return b""


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The fields that differ and can change the bits of a resumed run, as lines."""
    changed = [
        field for field in now if field not in ASIDE and before.get(field, now[field]) != now[field]
    ]
    return [f"{field} {before[field]} -> {now[field]}" for field in changed]
