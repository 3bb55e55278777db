"""Where two recorded trainings first differ; see tools/comparing/recording.py."""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from machinery.errors import ConfigError
from machinery.files import ROOT
from tools import children

#: What stands for the project as it is now.
WORKING = "."
#: Names that a line has room for.
_NAMED = 3
_LONGEST_ERROR = 600


class Trace:
    """What a training did, event by event."""

    def __init__(self, name: str, events: list[dict[str, Any]]) -> None:
        self.name = name
        self.events = events

    @property
    def updates(self) -> int:
        """How many updates there are."""
        return max((event["update"] for event in self.events), default=0)


def read_trace(file: Path) -> Trace:
    """A trace that was recorded to a file.

    Raises:
        ConfigError: it is none.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        events = [json.loads(line) for line in lines]
        for event in events:
            _ = (event["event"], event["update"], event["digests"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file} is no trace of --record: {error}") from None
    return Trace(str(file), events)


def recorded(which: str, words: list[str], updates: int, out: Path | None = None) -> Trace:
    """Train a config for some updates, as the code of a commit does it.

    Args:
        which: a commit, or "." for the project as it is now.
        words: of train.py's command line.
        out: where to keep the trace.

    Raises:
        ConfigError: there is no such commit, or it does not train.
    """
    with tempfile.TemporaryDirectory() as scratch:
        root = ROOT
        if which != WORKING:
            root = Path(scratch) / "code"
            _unpack(which, root)
        file = out or Path(scratch) / "trace.jsonl"
        script = Path(__file__).with_name("recording.py")
        saving = children.setting_words({"trainer.save_dir": str(Path(scratch) / "saved")})
        how = (str(script), str(file.absolute()), str(updates), str(root))
        result = subprocess.run(
            [sys.executable, *how, *words, *saving],
            capture_output=True,
            text=True,
            **children.options({"PYTHONPATH": ""}),
        )
        if result.returncode != 0:
            text = result.stderr.strip()[-_LONGEST_ERROR:] or f"exit code {result.returncode}"
            raise ConfigError(f"{which} does not train:\n  {text}")
        trace = read_trace(file)
    if not trace.events:
        raise ConfigError(f"{which}: no update was seen")
    return Trace(which, trace.events)


def _unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit to a folder; data that git does not track is linked there."""
    command = ["git", "archive", "--format=tar", commit]
    result = subprocess.run(command, cwd=ROOT, capture_output=True)
    if result.returncode != 0:
        why = result.stderr.decode(errors="replace").strip()
        raise ConfigError(f"{commit} is no run, no trace and no commit: {why}")
    with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "data").mkdir(exist_ok=True)
    for path in sorted((ROOT / "data").glob("*")):
        link = folder / "data" / path.name
        if not link.exists():
            link.symlink_to(path)


def first_difference(a: Trace, b: Trace) -> str:
    """Where two traces first differ; "" if nowhere."""
    for ours, theirs in zip(a.events, b.events, strict=False):
        if ours["event"] != theirs["event"] or ours["update"] != theirs["update"]:
            return f"{_place(ours)} | {_place(theirs)}"
        found = _differing(ours["digests"], theirs["digests"])
        if found:
            values = ""
            if "value" in ours and "value" in theirs:
                values = f": {ours['value']} | {theirs['value']}"
            return f"{_place(ours)}{_named(ours, found)}{values}"
    if len(a.events) != len(b.events):
        return f"{a.updates:,} updates | {b.updates:,} updates"
    return ""


def _place(event: dict[str, Any]) -> str:
    """Where an event stands."""
    return f"update {event['update']}, {event['event']}"


def _differing(ours: dict[str, str], theirs: dict[str, str]) -> list[str]:
    """The names of what differs, in their order."""
    names = dict.fromkeys([*ours, *theirs])
    return [name for name in names if ours.get(name) != theirs.get(name)]


def _named(event: dict[str, Any], names: list[str]) -> str:
    """What differs in an event, as a person reads it."""
    if names == [event["event"]]:
        return ""
    text = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        text += f", … ({len(names)} of {len(event['digests'])})"
    if "of" in event:
        text += f" of {event['of']}"
    return f" {text}"
