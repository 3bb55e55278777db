"""What a run was made of: code, data, versions, machine and command line."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from machinery import distributed, secrets
from machinery.checkpoints import imported
from machinery.files import ROOT, check_place, replacing

#: Fields whose change cannot change the bits of a resumed run.
ASIDE = ("command", "platform", "host")
#: Packages that have a field of their own.
_OF_THEIR_OWN = ("torch", "numpy")
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
#: How many places of an array or a list are looked at.
_LOOKS = 16


def describe(device: torch.device | None, dataset: Any = None) -> dict[str, Any]:
    """The environment as plain data, for environment.json and the checkpoint.

    Args:
        device: that trains.
        dataset: to train on, if there is one.
    """
    return {
        **_versions(device),
        "command": secrets.masked_words([sys.executable, *sys.argv]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "processes": distributed.size(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "git_commit": _git("rev-parse", "HEAD").decode().strip() or None,
        "git_dirty": bool(_git("status", "--porcelain", "--untracked-files=no") or _untracked()),
        "git_changes": _code_changes(),
        "data": fingerprint(dataset),
    }


def _versions(device: torch.device | None) -> dict[str, Any]:
    """The versions of what computes, those of a GPU where there is one."""
    found: dict[str, Any] = {
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "packages": imported.packages(),
    }
    if device is not None and device.type == "cuda":
        found["cuda"] = torch.version.cuda or torch.version.hip
        found["cudnn"] = torch.backends.cudnn.version()
        found["driver"] = imported.driver()
    return found


def _device_name(device: torch.device | None) -> str:
    """What the maker calls the device, where torch knows it; else its kind."""
    if device is None:
        return "cpu"
    if hasattr(torch, device.type):
        module = getattr(torch, device.type)
        if hasattr(module, "get_device_name"):  # torch.cuda and torch.xpu
            return str(module.get_device_name(device))
    return device.type


def advise(logger: Logger) -> None:
    """Tell of a machine that is too busy."""
    advice = crowded()
    if advice:
        logger.info(advice)


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


def _code_changes() -> str | None:
    """Tells uncommitted changes of the code apart; None where there are none, or no git."""
    with _index_with(_untracked()) as variables:
        changes = _git(*_DIFF, "--", "*.py", **variables)
    if not changes:
        return None
    return hashlib.sha256(changes).hexdigest()[:12]


def keep_changes(folder: Path) -> None:
    """Keep what the code differs by from its commit: `git apply` makes it again from there.

    That are also the files that were imported, and that git does not track yet.

    Raises:
        StorageError: it cannot be written.
    """
    with _index_with(_untracked()) as variables:
        changes = _without_secrets(_git(*_DIFF, **variables))
    if changes:
        path = folder / f"changes-{hashlib.sha256(changes).hexdigest()[:12]}.diff"
        check_place(path)
        with replacing(path) as file:
            file.write(changes)


def _without_secrets(changes: bytes) -> bytes:
    """A diff whose new lines show no secrets; what it takes away is in the commit as it is."""
    lines = changes.split(b"\n")
    for number, line in enumerate(lines):
        if line.startswith(b"+"):
            text = line.decode("utf-8", "surrogateescape")
            lines[number] = secrets.hidden(text).encode("utf-8", "surrogateescape")
    return b"\n".join(lines)


def _untracked() -> list[str]:
    """The project's files that were imported, and that git does not track yet."""
    files = [path.as_posix() for path in imported.own_files()]
    if not files:
        return []
    listed = _git("--literal-pathspecs", "ls-files", "-z", "--others", "--", *files)
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


@contextmanager
def _index_with(files: list[str]) -> Iterator[dict[str, str]]:
    """Within it git takes these files for tracked ones: the variables that make it do so.

    That is in a copy of its index; the user's own stays as it is.
    """
    index = _git("rev-parse", "--git-path", "index").decode().strip()
    if not files or not index:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        variables = {"GIT_INDEX_FILE": f"{folder}/index"}
        try:
            shutil.copyfile(ROOT / index, variables["GIT_INDEX_FILE"])
        except OSError:  # a full disk, or no index yet
            yield {}
            return
        words = ("--literal-pathspecs", "add", "--intent-to-add", "--force", "--")
        _git(*words, *files, **variables)
        yield variables


def _git(*words: str, **variables: str) -> bytes:
    """What a git command prints; nothing where it fails, or where there is no git.

    Args:
        words: of the command.
        variables: of its environment.
    """
    try:
        return subprocess.run(
            [*_GIT, *words],
            cwd=ROOT,
            env={**_git_environment(), **variables},
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
        if field == "git_changes" and not _same_base(before, now):
            continue
        if field == "packages":
            lines += _other_versions(before[field], value)
        elif before[field] != value:
            lines.append(f"{field} {before[field]} -> {value}")
    return lines


def _same_base(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether both had changes of one commit; else the commit, or "dirty", says it already."""
    changed = bool(before["git_changes"] and now["git_changes"])
    return changed and before.get("git_commit") == now["git_commit"]


def _other_versions(before: Any, now: Mapping[str, str]) -> list[str]:
    """A line for each package that both have imported, in different versions."""
    if not isinstance(before, dict):
        return []
    lines = []
    for name, version in now.items():
        if name not in _OF_THEIR_OWN and before.get(name, version) != version:
            lines.append(f"{name} {before[name]} -> {version}")
    return lines


def fingerprint(dataset: Any) -> str | None:
    """Tells whether data is the same, without reading it.

    A hash of the length of a dataset, and of 16 places of the arrays and lists that it holds. None
    for a stream, and for whatever cannot be looked at.
    """
    try:
        found = _found(dataset)
    except Exception:  # of whatever a dataset has as attributes
        return None
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _found(dataset: Any) -> list[Any]:
    """What stands for a dataset."""
    found: list[Any] = [type(dataset).__name__, len(dataset)]
    for value in vars(dataset).values():
        held = value if type(value) is tuple else (value,)
        for each in held:
            found += _of_attribute(each)
    return found


def _of_attribute(value: Any) -> list[Any]:
    """What stands for an attribute: nothing for one that holds no data."""
    if isinstance(value, Dataset):
        return [fingerprint(value)]
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.ndim == 0:
            return []
    elif not isinstance(value, list):
        return []
    if len(value) == 0:
        return []
    looked_at = np.linspace(0, len(value) - 1, _LOOKS).astype(int)
    return [len(value), *(_fixed(value[i]) for i in looked_at)]


def _fixed(item: Any) -> str:
    """What stands for an item: of arrays the bytes, of other objects their class.

    Of texts the end counts, as folders may move.
    """
    if isinstance(item, torch.Tensor | np.ndarray | np.generic):
        return hashlib.sha256(torch.as_tensor(item).cpu().double().numpy().tobytes()).hexdigest()
    if type(item) in (str, int, float, tuple):
        return "/".join(str(item).split("/")[-2:])
    return type(item).__name__
