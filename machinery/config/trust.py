"""What of a checkpoint's config counts only with the user's word: what reaches out of the project.

A checkpoint may come from anybody. What it names may write inside its run folder and nowhere else,
read no variable of the environment, and speak to nobody, unless the user says the same: on the
command line, or in a config in the project's folder.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machinery import secrets
from machinery.config.changes import read_value
from machinery.config.components import KINDS, OWN
from machinery.config.installed import FETCHING, is_installed, makes_root, reaches_out
from machinery.config.kinds import holds_parts
from machinery.config.nested import SECTIONS, found_anywhere
from machinery.config.source import Entry, Source, dotted
from machinery.config.values import KeyPath, is_sets
from machinery.errors import CheckpointError, ConfigError
from machinery.files import ROOT

#: A file that is larger is no config.
_LARGEST = 1_000_000
_TRACKERS = "trainer.trackers"
#: Sections, and a file that is only read, as every file of weights is.
_HARMLESS = ("$schema", "trainer", "arch.weights")
#: The key paths of components.
_COMPONENT = re.compile(
    r"\w+|metrics\.\d+|arch\.adapter|optimizer\.groups\.\d+|(valid|test)_data_loader\.[\w-]+"
)
#: Where the arguments of components are, also of those in the arguments of a loader.
_ARGUMENTS = (*SECTIONS, "starting_args")
#: What timm's names of models on a hub, or in a folder, begin with.
_HUB = re.compile(r"\s*(hf[-_]hub|local[-_]dir)\s*:", re.IGNORECASE)


class Foreign(NamedTuple):
    """A value of a checkpoint's config that nobody has allowed."""

    key: str
    value: Any
    #: Why it needs the user's word.
    why: str
    #: Whether something would be fetched, rather than made.
    fetches: bool = False

    @property
    def words(self) -> list[str]:
        """The words of a command line that allow it."""
        text = self.value
        if not isinstance(text, str) or not isinstance(read_value(text), str):
            text = json.dumps(text)
        return ["--set", f"{self.key}={text}"]


class Own:
    """What the configs in the project's folder say."""

    def __init__(self) -> None:
        #: Key paths with their values, and the trackers.
        self._said: set[tuple[str, str]] = set()
        self._trackers: list[Any] = []
        for source in _own_sources():
            for entry in source.entries():
                self._said.add((entry.key, str(entry.value)))
            self._trackers += _trackers(source)

    def says(self, entry: Entry) -> bool:
        """Whether one of them has this value at the same key."""
        return (entry.key, str(entry.value)) in self._said

    def like(self, tracker: Any) -> Any:
        """The tracker of one of them that is the same, with its secrets; None if there is none."""
        for own in self._trackers:
            if secrets.masked(own) == secrets.masked(tracker):
                return own
        return None


def _own_sources() -> Iterator[Source]:
    for file in sorted(ROOT.glob("*.json")):
        try:
            if file.is_file() and file.stat().st_size < _LARGEST:
                yield Source.read(file)
        except (ConfigError, OSError):
            continue  # it is no config


def _trackers(source: Source) -> list[Any]:
    """The trackers of a config, which nobody has checked yet."""
    trainer = source.values.get("trainer")
    if not isinstance(trainer, dict) or not isinstance(trainer.get("trackers"), list):
        return []
    return trainer["trackers"]


def check_foreign(source: Source, trains: bool, new_run: bool, unused: tuple[str, ...]) -> None:
    """Refuse what of a checkpoint's config needs the user's word, and has not got it.

    The same trackers of the user's own config take the place of the checkpoint's: they have
    their secrets.

    Args:
        source: of the config; what the checkpoint says in it has no origin but the checkpoint.
        trains: whether the trackers are built, too.
        new_run: whether a folder is made where `trainer.save_dir` says.
        unused: sections of which nothing is built.

    Raises:
        CheckpointError: a path or an address.
        ConfigError: a variable of the environment, or a tracker.
    """
    own = Own()
    found = _foreign(source, own, new_run, unused)
    for each in found:
        told = f"{source.name}: {each.key}: {each.why}"
        option = shlex.join(each.words)
        is_text = isinstance(each.value, str)
        if is_text and secrets.names_in(each.value):
            raise ConfigError(f"{told}; if that is meant, say so: {option}")
        hint = f"if it is to be made, say so: {option}"
        if each.fetches:
            hint = f"if that is meant, say so: {option}"
        is_starting = is_text and is_to_be_made(each.value)
        if each.key.startswith("arch.args.") and (each.fetches or is_starting):
            hint += f"; if it only gave starting weights, leave it out: --set {each.key}=null"
        raise CheckpointError(f"{told}; {hint}")
    if trains:
        _check_trackers(source, own)


def _check_trackers(source: Source, own: Own) -> None:
    """Refuse trackers of a checkpoint, unless the user has them, too."""
    trackers = _trackers(source)
    for index, tracker in enumerate(trackers):
        if not _is_foreign(source, index):
            continue
        known = own.like(tracker)
        if known is None:
            raise ConfigError(_told(source, tracker))
        trackers[index] = known


def _told(source: Source, tracker: Any) -> str:
    """That a tracker is not used, and the ways out."""
    name = tracker
    if isinstance(tracker, dict):
        name = tracker.get("type")
    all_of_them = Foreign(_TRACKERS, _trackers(source), "")
    without = shlex.join(["--set", f"{_TRACKERS}=[]"])
    return (
        f"{source.name}: {_TRACKERS}: {name} may send what is trained anywhere, and no config in "
        f"{ROOT} has it with these arguments\n"
        f"  if that is meant, say so: {shlex.join(all_of_them.words)}\n"
        f"  to go on without: {without}"
    )


def _is_foreign(source: Source, index: int) -> bool:
    """Whether a tracker, or a part of it, is the checkpoint's."""
    return source.where(("trainer", "trackers", index)) == source.name


def _foreign(source: Source, own: Own, new_run: bool, unused: tuple[str, ...]) -> list[Foreign]:
    """The values that need the user's word, but for trackers."""
    found = []
    downloading = _sections_that_download(source)
    parts = _installed_parts(source)
    types = _types(source)
    for entry in source.entries():
        section = entry.key.partition(".")[0]
        fetches = False
        if entry.key == "trainer.save_dir" and new_run:
            why = ""
            if _leads_out(str(entry.value)):
                why = f"{entry.value} is outside the project"
        elif _is_in(entry.key, (*_HARMLESS, *unused)):
            continue
        else:
            why = _why_of_part(entry, parts, types)
            fetches = bool(why)
            if not why and isinstance(entry.value, str):
                why = _why(entry.value, section in downloading)
        if why and entry.origin == source.name and not own.says(entry):
            found.append(Foreign(entry.key, entry.value, why, fetches))
    return found


def _installed_parts(source: Source) -> dict[str, str]:
    """The parts of installed packages that a config names, by their key paths."""
    found = {}
    for entry in source.entries():
        if not isinstance(entry.value, str) or not is_installed(entry.value, OWN):
            continue
        key = entry.key.removesuffix(".type")
        is_named = key != entry.key or key.startswith(("loss", "metrics"))  # else it has a type
        if is_named and _COMPONENT.fullmatch(key) and key.startswith(tuple(KINDS)):
            found[key] = entry.value
    for path, loader in _loaders(source):
        if is_installed(str(loader.get("type")), OWN):
            found[dotted(path)] = loader["type"]
        for part in found_anywhere(loader.get("args"), (*path, "args")):
            if is_installed(part.type, OWN):
                found[dotted(part.path)] = part.type
    return found


def _loaders(source: Source) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The data loaders of a config, with their key paths; those of several sets, too."""
    for name, section in source.values.items():
        if not holds_parts((name,)) or not isinstance(section, dict):
            continue
        if not is_sets(name, section):
            yield (name,), section
            continue
        for key, each in section.items():
            if each is not None:
                yield (name, key), each


def _types(source: Source) -> dict[str, str]:
    """The names of all that may be a component, also of the project's own, by their key paths."""
    found = {}
    for entry in source.entries():
        if entry.key.endswith(".type"):
            found[entry.key.removesuffix(".type")] = str(entry.value)
    return found


def _why_of_part(entry: Entry, parts: dict[str, str], types: dict[str, str]) -> str:
    """Why a value of a component needs the user's word; empty if it does not.

    Args:
        parts: those of installed packages, by their key paths.
        types: the names of all components.
    """
    name = parts.get(entry.key.removesuffix(".type"), "")
    if name and name == entry.value:
        if reaches_out(name):
            return f"{name} may fetch what it needs, or write it"
        return ""
    keys = entry.key.split(".")
    for depth in range(1, len(keys) - 1):
        component = ".".join(keys[:depth])
        argument = keys[depth + 1]
        if keys[depth] not in _ARGUMENTS or component not in types:
            continue
        # A list or an object is true, whatever is in it.
        is_true = bool(entry.value) or len(keys) > depth + 2
        if component not in parts and _is_file(entry.value):
            continue  # which a part of the project's own reads
        if is_true and argument in FETCHING and not _is_of_samples(entry, argument):
            return f"{types[component]} may fetch what {argument} says"
    return ""


def _is_file(value: Any) -> bool:
    """Whether a value names a file that is there."""
    try:
        return isinstance(value, str) and _real(value).is_file()
    except (OSError, ValueError, RuntimeError):  # no path at all
        return False


def _is_of_samples(entry: Entry, argument: str) -> bool:
    """Whether the argument `weights` has those of samples, classes or terms, not a network's."""
    if argument != "weights":
        return False
    is_number = isinstance(entry.value, int | float) and not isinstance(entry.value, bool)
    return is_number or "data_loader" in entry.key.partition(".")[0]


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    """Whether a key is one of some sections', or in them."""
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _why(value: str, downloads: bool) -> str:
    """Why a text of a checkpoint needs the user's word; empty if it needs none.

    Args:
        downloads: whether something may be written where it leads.
    """
    names = secrets.names_in(value)
    if names:
        return f"it takes {names[0]} from the environment"
    if "://" in value or _HUB.match(value):
        return f"{value} is an address"
    if is_to_be_made(value) or (downloads and _leads_out(value)):
        return f"{value} is outside the project"
    return ""


def _sections_that_download(source: Source) -> set[str]:
    """The sections that write to a path of theirs: they ask for a download, or make folders."""
    found = set()
    for entry in source.entries():
        downloads = entry.key.endswith(".download") and entry.value
        if downloads or makes_root(str(entry.value)):
            found.add(entry.key.partition(".")[0])
    return found


def is_to_be_made(value: str) -> bool:
    """Whether a text is a path that leads out of the project, where nothing is."""
    try:
        return _leads_out(value) and not os.access(_real(value), os.F_OK)
    except (ValueError, RuntimeError):  # no path at all
        return os.sep in value


def _leads_out(value: str) -> bool:
    """Whether a text is a path that leads out of the project; a backslash may be a slash."""
    return any(_is_outside(way) for way in (value, value.replace("\\", "/")))


def _is_outside(value: str) -> bool:
    """Whether a text is a path that leads out of the project."""
    try:
        return not _real(value).is_relative_to(ROOT)
    except (ValueError, RuntimeError):  # no path at all
        return os.sep in value


def _real(value: str) -> Path:
    return Path(os.path.realpath(ROOT / Path(value).expanduser()))


class Words(NamedTuple):
    """What a command needs to say beside `-r`, where the config in the checkpoint reaches out."""

    to_evaluate: list[str]
    to_go_on: list[str]


def words_for(config: Any) -> Words:
    """What commands need to say of a run of this config.

    Args:
        config: as the records have it.
    """
    source = Source.of(config, name="")
    own = Own()
    to_evaluate: list[str] = []
    unused: tuple[str, ...] = ("arch.starting_args",)  # the weights are in the checkpoint
    trainer = source.values.get("trainer")
    if isinstance(trainer, dict) and trainer.get("save") == "trained":
        unused = ()
    for each in _foreign(source, own, new_run=False, unused=unused):
        to_evaluate += each.words
    trackers = _trackers(source)
    to_go_on = list(to_evaluate)
    if any(own.like(tracker) is None for tracker in trackers):
        to_go_on += Foreign(_TRACKERS, trackers, "").words
    return Words(to_evaluate, to_go_on)
