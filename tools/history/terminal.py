"""The table of runs for a terminal: a line for each run, as wide as the terminal.

What does not fit is named below it.
"""

import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from tools.history.choosing import value_of
from tools.history.records import Record, is_missing
from tools.history.tables import cell, labels

#: What differs between runs anyway, or says nothing of what they are.
_NO_SETTINGS = ("name", "trainer.save_dir", "trainer.run_id")
#: Settings that come before others, after those that a command line has set.
_FIRST = ("optimizer.args.lr", "data_loader.args.batch_size", "seed")
#: How wide some columns may be: the names of runs, and other cells.
_NAME, _CELL = 36, 14
#: What notes have room for beside the numbers of tests, and beside settings.
_NOTE, _LEAST = 28, 14
#: Columns that are always shown.
_SHOWN = ("run", "best", "status", "epochs", "notes")
_HEADS = ("run", "best", "epochs", "time", "state", "notes")
#: What stands between two columns.
_GAP = "  "


class Column(NamedTuple):
    """A column of the table."""

    name: str
    cells: list[str]
    #: Words stand at the left, numbers at the right.
    left: bool = False

    @property
    def width(self) -> int:
        """How many letters it takes, with the gap before it."""
        return max(len(text) for text in (self.name, *self.cells)) + len(_GAP)


def as_lines(records: list[Record], wanted: list[str], width: int) -> list[str]:
    """The table.

    Args:
        records: the runs.
        wanted: columns, or keys of the config, that are to be shown before others.
        width: how many letters a line has at most.
    """
    if not records:
        return ["no runs"]
    lines = []
    common = common_name(records)
    if common:
        lines.append(f"{common}: {_counted(len(records))}")
    columns, hidden = _columns(records, wanted, width)
    lines += [line[:width].rstrip() for line in _joined(columns)]
    if hidden:
        text = f"no room for: {', '.join(hidden)}"
        lines += textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False)
    return lines


def _columns(
    records: list[Record], wanted: list[str], width: int
) -> tuple[list[Column], list[str]]:
    """The columns for which there is room, and the names of those for which there is none."""
    common = common_name(records)
    names = [record.name.removeprefix(f"{common}/") for record in records]
    run = Column("run", _cut_each(names, _NAME), left=True)
    best = _best(records)
    progress = _progress(records)
    note = Column("notes", _notes(records), left=True)
    room = width + len(_GAP) - sum(column.width for column in (run, best, *progress))
    settings = _settings(records, wanted)
    tests = _tests(records, wanted)
    least = _LEAST
    if any(record.problem for record in records):
        least = _NOTE
    fitting = _fitting(settings, room - _for_notes(note, least))
    room -= sum(column.width for column in fitting)
    tested = _fitting(tests, room - _for_notes(note, _NOTE))
    columns = [run, *fitting, best, *tested, *progress]
    if any(note.cells):
        columns.append(_narrowed(note, width, columns))
    return columns, [each.name for each in (*settings, *tests) if each not in columns]


def _counted(count: int) -> str:
    """How many runs there are."""
    if count == 1:
        return "1 run"
    return f"{count:,} runs"


def common_name(records: list[Record]) -> str:
    """What all names of runs begin with, such as the name of their config; "" if nothing."""
    places = {record.name.rpartition("/")[0] for record in records}
    if len(places) == 1:
        return places.pop()
    return ""


def _cut(text: str, most: int) -> str:
    """A text of at most so many letters."""
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}…"


def _cut_each(names: list[str], most: int) -> list[str]:
    """Names of at most so many letters: what is left out is in their middle."""
    short = []
    for name in names:
        if len(name) > most:
            name = f"{name[: most // 3]}…{name[len(name) - (most - 1 - most // 3) :]}"
        short.append(name)
    return short


def _for_notes(note: Column, most: int) -> int:
    """The letters that notes are to have, at least."""
    if not any(note.cells):
        return 0
    return min(note.width, most + len(_GAP))


def _settings(records: list[Record], wanted: list[str]) -> list[Column]:
    """What is asked for, and the settings that differ, those that matter most first."""
    keys = list(dict.fromkeys([*wanted, *differing_settings(records)]))
    keys = [key for key in keys if key not in _SHOWN]
    names = labels(keys, taken=_HEADS)
    return [_column(records, key, names[key]) for key in keys]


def _tests(records: list[Record], wanted: list[str]) -> list[Column]:
    """The numbers of tests."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(name for name in record.row if name.startswith("test_")))
    return [_column(records, name, name) for name in names if name not in wanted]


def _column(records: list[Record], key: str, name: str) -> Column:
    """The column of a setting, or of one of the table of a CSV."""
    values = [value_of(record, key) for record in records]
    texts = [_cut(_text(value), _CELL) for value in values]
    return Column(name, texts, left=any(isinstance(value, str) for value in values))


def _text(value: Any) -> str:
    """A value as the table shows it."""
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(cell(value).split())


def differing_settings(records: list[Record]) -> list[str]:
    """The keys of the configs that differ between runs.

    Those that a sweep tries, or that a command line has set, come first.
    """
    having = [record for record in records if record.config]
    keys: dict[str, None] = {}
    for record in having:
        keys.update(dict.fromkeys(record.config))
    differing = []
    for key in keys:
        if key in _NO_SETTINGS:
            continue
        texts = {_text(value_of(record, key)) for record in having}
        if len(texts) > 1:
            differing.append(key)
    given = set()
    for record in having:
        given |= record.varied

    def rank(key: str) -> tuple[bool, int]:
        """What stands first comes first."""
        place = len(_FIRST)
        if key in _FIRST:
            place = _FIRST.index(key)
        return key not in given, place

    return sorted(differing, key=rank)


def _best(records: list[Record]) -> Column:
    """The best values; a star marks the best run, where all watch one number."""
    monitors = watched(records)
    one = len(monitors) == 1
    texts = [cell(record.row.get("best")) for record in records]
    if not one:
        pairs = zip(texts, records, strict=True)
        return Column("best", [_with_name(text, record) for text, record in pairs], left=True)
    winner = best_run(records)
    if winner is not None and len(records) > 1:
        texts = [f"{text} " for text in texts]
        texts[winner] = f"{texts[winner].rstrip()}*"
        return Column(f"{monitors.pop()} ", texts)
    return Column(monitors.pop(), texts)


def watched(records: list[Record]) -> set[str]:
    """The numbers that runs are judged by."""
    found = set()
    for record in records:
        name = record.row.get("monitor")
        if name and not is_missing(name):
            found.add(str(name))
    return found


def _with_name(text: str, record: Record) -> str:
    """A best value with the name of the number, where runs watch several."""
    monitor = record.row.get("monitor")
    if not text or is_missing(monitor):
        return text
    return _cut(f"{text} {monitor}", _CELL + 4)


def best_run(records: list[Record]) -> int | None:
    """The place of the run with the best value; None where they watch several numbers, or none."""
    modes = set()
    values = []
    for place, record in enumerate(records):
        value = record.row.get("best")
        if isinstance(value, int | float) and not is_missing(value):
            modes.add(str(record.config.get("trainer.monitor", "")))
            values.append((value, place))
    if len(modes) != 1:
        return None
    choose: Callable[[Any], Any] = min
    if modes.pop().startswith("max"):
        choose = max
        values = [(value, -place) for value, place in values]  # of equal ones, the first
    return abs(choose(values)[1])


def _progress(records: list[Record]) -> list[Column]:
    """How far the runs have come, how long it took, and how they have ended."""
    rows = [record.row for record in records]
    epochs = [cell(row.get("epochs")) for row in rows]
    times = [duration(row.get("seconds")) for row in rows]
    states = [cell(row.get("status")) for row in rows]
    return [Column("epochs", epochs), Column("time", times), Column("state", states, left=True)]


def duration(seconds: Any) -> str:
    """A time in one or two units, such as 3m04s."""
    if not isinstance(seconds, int | float) or is_missing(seconds) or abs(seconds) > 1e11:
        return ""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    if days == 0:
        return f"{hours}h{minutes:02}m"
    return f"{days:,}d{hours:02}h"


def _notes(records: list[Record]) -> list[str]:
    """What is noted of each run: what does not read, else the words of its owner."""
    texts = []
    for record in records:
        there = []
        for part in (record.row.get("problem"), record.row.get("notes")):
            if part and not is_missing(part):
                there.append(str(part))
        texts.append(" ".join("; ".join(there).split()))
    return texts


def _fitting(optional: list[Column], room: int) -> list[Column]:
    """The columns for which there is room, in their order."""
    found = []
    for column in optional:
        if column.width <= room:
            found.append(column)
            room -= column.width
    return found


def _narrowed(note: Column, width: int, others: list[Column]) -> Column:
    """The notes in what room the other columns leave."""
    room = width - sum(column.width for column in others)
    room = max(room, len(note.name))
    return note._replace(cells=[_cut(text, room) for text in note.cells])


def _joined(columns: list[Column]) -> list[str]:
    """The lines of the table; the first are the names."""
    lines = []
    for row in zip(*([column.name, *column.cells] for column in columns), strict=True):
        words = []
        for column, text in zip(columns, row, strict=True):
            inner = column.width - len(_GAP)
            if column.left:
                words.append(text.ljust(inner))
            else:
                words.append(text.rjust(inner))
        lines.append(_GAP.join(words))
    return lines
