"""What differs between two configs."""

from typing import Any, NamedTuple

from machinery.config.source import Source

#: Stands for a value that one of the two lacks.
_DEFAULT = "(default)"


class Change(NamedTuple):
    """A value that differs."""

    #: Its dotted key path.
    key: str
    old: Any
    new: Any


def differences(old: Source, new: Source) -> list[Change]:
    """The values of `new` that differ from those of `old`, and those that only one of them has."""
    before, now = old.flat(), new.flat()
    changes = []
    for key in {**now, **before}:
        change = Change(key, before.get(key, _DEFAULT), now.get(key, _DEFAULT))
        if change.old != change.new:
            changes.append(change)
    return changes
