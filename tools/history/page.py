"""One self-contained page about some runs: what they reached, curves, settings, pictures.

Its curves are drawn by uPlot (Leon Sorokin, MIT, in `uplot/`), which is put into the page whole: 51
KB, against some 500 of Observable Plot with D3, 800 of Vega-Lite and 1,100 of Plotly's basic part,
and it draws tens of thousands of points at once. What it has not, settings against results, is SVG
of a few lines in page.js.
"""

import base64
import colorsys
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from markupsafe import Markup

from tools.history.choosing import value_of
from tools.history.records import Record, is_missing, scalar
from tools.history.tables import as_table, cell, differences, labels
from tools.history.terminal import best_run, common_name, differing_settings, watched

#: Curves of more runs would be too many; of so many are shown at first; and pictures of so many.
_MOST_RUNS = 100
_SHOWN = 50
_PICTURED = 12
#: And so many numbers, and settings, are enough.
_MOST_CHARTS, _MOST_SETTINGS = 24, 8
#: Settings in the table.
_MOST_COLUMNS = 16
#: Columns of it that are there also where they hold nothing.
_ALWAYS = ("run", "status")
#: Columns of a history that have no chart.
_NO_CHARTS = ("epoch", "seconds", "samples/s")
#: The first colours of runs; others follow around the circle (Tableau 10).
_COLOURS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"]
_COLOURS += ["#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"]
#: The golden angle, in turns: colours that follow each other are far apart.
_TURN = 0.381966
#: What the page puts in as it is.
_FILES = (
    "page.css",
    "page.js",
    "uplot/LICENSE",
    "uplot/uPlot.iife.min.js",
    "uplot/uPlot.min.css",
)
#: Larger numbers cannot be drawn.
_LARGEST = 1e300


class Image(NamedTuple):
    """A picture that a run has logged."""

    label: str
    #: The file in base64.
    content: str = ""
    #: Why there is none; "" if there is.
    problem: str = ""


def page(records: list[Record]) -> str:
    """The page as text."""
    drawn = [record for record in records if len(record.history)]
    names = _charted_names(drawn[:_MOST_RUNS])
    pictures = []
    for record in records[:_PICTURED]:
        pictures += _pictures(record)
    data = content(records)
    here = Path(__file__).parent
    files = {name: Markup((here / name).read_text(encoding="utf-8")) for name in _FILES}
    heading = f"{len(records):,} runs"
    if len(records) == 1:
        heading = "1 run"
    return _template().render(
        heading=heading,
        count=len(records),
        runs=_table(records),
        best=best_run(records),
        drawn=len(drawn),
        most=_MOST_RUNS,
        validated=any(name.startswith("val_") for name in names),
        axes=data["axes"],
        pictures=pictures,
        differing=differences(records[:_PICTURED]),
        data=_as_script(data),
        files=files,
    )


def _table(records: list[Record]) -> pd.DataFrame:
    """The table of runs with the settings that differ, without columns that hold nothing."""
    table = as_table(records).drop(columns=["lr", "batch", "seed"], errors="ignore")
    for name in table:
        if name not in _ALWAYS and not any(cell(value) for value in table[name]):
            del table[name]
    keys = differing_settings(records)[:_MOST_COLUMNS]
    names = labels(keys, taken=tuple(table))
    place = table.columns.get_loc("status") + 1
    for key in reversed(keys):
        values = [scalar(value_of(record, key)) for record in records]
        table.insert(place, names[key], pd.Series(values, table.index, dtype=object))
    return table


def _as_script(data: dict[str, Any]) -> Markup:
    """Data as JSON within a script, of which no text ends it."""
    text = json.dumps(data, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)  # nothing in it is markup any more


def _template() -> jinja2.Template:
    """The template of the page, which shows all texts as they are: none is markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = cell
    return environment.get_template("page.html")


def content(records: list[Record]) -> dict[str, Any]:
    """What page.js draws: the runs with their curves and values, the charts, and the axes.

    The last axis is the result; there are none where no setting differs.
    """
    winner = _winner(records)
    drawn = _drawn(records, winner)
    keys = differing_settings(drawn)[:_MOST_SETTINGS]
    names = labels(keys, taken=("best",))
    axes: list[str] = []
    result = _result(drawn)
    if keys and result:
        axes = [*names.values(), result]
    ranks = _ranks(drawn)
    common = common_name(drawn)
    runs = []
    for number, record in enumerate(drawn):
        values = {names[key]: _plain(value_of(record, key)) for key in keys}
        if result:
            values[result] = _plain(record.row.get("best"))
        is_best = record is winner and len(drawn) > 1
        run = {
            "number": number,
            "label": record.name.removeprefix(f"{common}/"),
            "best": is_best,
            "on": number < _SHOWN or is_best,
            "rank": ranks[number],
            "values": values,
        }
        runs.append({**run, **_look(number, record), **_curves(record)})
    return {"runs": runs, "charts": _charts(_charted_names(drawn)), "axes": axes}


def _winner(records: list[Record]) -> Record | None:
    """The best run, if there is one."""
    best = best_run(records)
    if best is None:
        return None
    return records[best]


def _drawn(records: list[Record], winner: Record | None) -> list[Record]:
    """The runs that have curves, not too many of them, with the best."""
    drawn = [record for record in records if len(record.history)]
    if winner in drawn[_MOST_RUNS:]:
        drawn[_MOST_RUNS - 1] = winner
    return drawn[:_MOST_RUNS]


def _look(number: int, record: Record) -> dict[str, str]:
    """The colour of a run, and its state."""
    return {"colour": _colour(number), "status": str(record.row.get("status"))}


def _result(records: list[Record]) -> str:
    """The number that the runs are compared by; "" where they watch several, or none."""
    names = watched(records)
    if len(names) != 1:
        return ""
    return names.pop()


def _ranks(records: list[Record]) -> list[float]:
    """From the worst run, 0, to the best, 1; one that has no result is among the worst."""
    found = []
    for record in records:
        value = record.row.get("best")
        if not isinstance(value, int | float) or is_missing(value):
            found.append(-math.inf)
        elif str(record.config.get("trainer.monitor")).startswith("max"):
            found.append(value)
        else:
            found.append(-value)
    ordered = sorted(set(found))
    last = max(len(ordered) - 1, 1)
    return [ordered.index(value) / last for value in found]


def _plain(value: Any) -> Any:
    """A value as page.js takes it: a number, a text, or null."""
    if value is None or is_missing(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        if abs(value) < _LARGEST:
            return float(value)
        return None
    return str(value)


def _colour(number: int) -> str:
    """The colour of a run."""
    if number < len(_COLOURS):
        return _COLOURS[number]
    red, green, blue = colorsys.hls_to_rgb(number * _TURN % 1, 0.52, 0.6)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def _curves(record: Record) -> dict[str, Any]:
    """The epochs of a run that are numbers, and the values there, by name."""
    history = record.history
    if "epoch" not in history:
        return {"epochs": [], "series": {}}
    epochs = pd.to_numeric(history["epoch"], errors="coerce")
    rows = [place for place, epoch in enumerate(epochs) if abs(epoch) < _LARGEST]
    series = {}
    for name in history:
        if name in _NO_CHARTS:
            continue
        values = pd.to_numeric(history[name], errors="coerce")
        series[scalar(str(name))] = [_plain(float(values.iloc[row])) for row in rows]
    return {"epochs": [float(epochs.iloc[row]) for row in rows], "series": series}


def _charted_names(records: list[Record]) -> list[str]:
    """The numbers that any of the runs has, in their order."""
    names: dict[str, None] = {}
    for record in records:
        names.update(dict.fromkeys(scalar(str(name)) for name in record.history))
    return [name for name in names if name not in _NO_CHARTS]


def _charts(names: list[str]) -> list[dict[str, Any]]:
    """A chart for each number, training dashed where validation has it, too."""
    charts: list[dict[str, Any]] = []
    for name in names:
        if name.startswith("val_") and name.removeprefix("val_") in names:
            continue  # it is in the chart of its training
        series = [(name, False)]
        if f"val_{name}" in names:
            series = [(name, True), (f"val_{name}", False)]
        charts.append({"title": name, "series": series})
    return charts[:_MOST_CHARTS]


def _encoded(content: bytes) -> str:
    """A file's content as a page can hold it."""
    return base64.b64encode(content).decode()


def _pictures(record: Record) -> list[Image]:
    """The last picture of each tag in the run's event files."""
    found = []
    for folder in _event_folders(record):
        try:
            for picture in _last_pictures(record, folder):
                found.append(picture)
        except Exception as error:  # whatever a damaged event file does to its reader
            label = f"{record.name}: {scalar(folder.name)}"
            found.append(Image(label, problem=type(error).__name__))
    return found


def _event_folders(record: Record) -> list[Path]:
    """The folders of a run's event files; none with what is no file, for which a reader waits."""
    folders = set()
    unreadable = set()
    for file in record.log_dir.glob("*/*tfevents*"):
        folders.add(file.parent)
        if not file.is_file():
            unreadable.add(file.parent)
    return sorted(folders - unreadable)


def _last_pictures(record: Record, folder: Path) -> Iterator[Image]:
    """The last picture of each tag in one folder of event files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={IMAGES: 1})
    events.Reload()
    for tag in events.Tags()["images"]:
        last = events.Images(tag)[-1]
        label = f"{record.name}: {tag}, step {last.step:,}"
        yield Image(label, _encoded(last.encoded_image_string))
