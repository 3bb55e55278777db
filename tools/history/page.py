"""One self-contained page about some runs: what they reached, curves, what differs, pictures."""

import base64
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib as mpl
import matplotlib.ticker

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from tools.history.records import Record, scalar
from tools.history.tables import as_table, cell, differences

#: Curves and pictures of more runs would be too many.
_MOST_RUNS = 12
#: And so many numbers are enough.
_MOST_CHARTS = 24
#: Columns of a history that have no chart.
_NO_CHARTS = ("epoch", "seconds", "samples/s")
#: The first digits of the labels on a logarithmic axis.
_LABELLED = (1, 2, 5)


class Coloured(NamedTuple):
    """A run as the charts and their legend show it."""

    record: Record
    colour: str


class Image(NamedTuple):
    """A chart, or a picture that a run has logged."""

    label: str
    #: The file in base64.
    content: str = ""
    #: Why there is none; "" if there is.
    problem: str = ""


class Line(NamedTuple):
    """A number of a run in a chart."""

    epochs: pd.Series
    values: pd.Series
    colour: str
    style: str


def page(records: list[Record]) -> str:
    """The page as text."""
    first = records[:_MOST_RUNS]
    drawn = [record for record in records if len(record.history)]
    coloured = _coloured(drawn[:_MOST_RUNS])
    names = _charted_names(coloured)
    pictures = []
    for record in first:
        pictures += _pictures(record)
    return _template().render(
        count=len(records),
        runs=as_table(records),
        drawn=len(drawn),
        most=_MOST_RUNS,
        legend=coloured,
        validated=any(name.startswith("val_") for name in names),
        charts=_charts(coloured, names),
        pictures=pictures,
        differing=differences(first),
    )


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


def _coloured(records: list[Record]) -> list[Coloured]:
    """The runs with a colour for each."""
    colours = mpl.color_sequences["tab10"]
    if len(records) > len(colours):
        colours = mpl.color_sequences["tab20"]
    found = []
    for record, colour in zip(records, colours, strict=False):
        found.append(Coloured(record, mpl.colors.to_hex(colour)))
    return found


def _charted_names(runs: list[Coloured]) -> list[str]:
    """The numbers that any of the runs has, in their order."""
    names: dict[str, None] = {}
    for run in runs:
        names.update(dict.fromkeys(run.record.history))
    return [name for name in names if name not in _NO_CHARTS]


def _charts(runs: list[Coloured], names: list[str]) -> list[Image]:
    """A chart for each number, training dashed where validation has it, too."""
    charts: list[Image] = []
    for name in names:
        if name.startswith("val_") and name.removeprefix("val_") in names:
            continue  # it is in the chart of its training
        styles = {name: "-"}
        if f"val_{name}" in names:
            styles = {name: "--", f"val_{name}": "-"}
        if len(charts) < _MOST_CHARTS:
            charts.append(_chart(name, styles, runs))
    return charts


def _chart(title: str, styles: dict[str, str], runs: list[Coloured]) -> Image:
    """The curves of some numbers.

    Args:
        styles: of the lines, by the number's name.
    """
    file = io.BytesIO()
    figure, axes = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    try:
        _draw(axes, title, _lines(styles, runs))
        figure.savefig(file, format="svg", metadata={"Date": None})
    except Exception as error:  # numbers that are none, or too large to be drawn
        return Image(title, problem=type(error).__name__)
    finally:
        plt.close(figure)
    return Image(title, _encoded(file.getvalue()))


def _lines(styles: dict[str, str], runs: list[Coloured]) -> list[Line]:
    """What the runs have of some numbers."""
    lines = []
    for run in runs:
        history = run.record.history
        for name, style in styles.items():
            if name in history and "epoch" in history:
                epochs = pd.to_numeric(history["epoch"], errors="coerce")
                values = pd.to_numeric(history[name], errors="coerce")
                lines.append(Line(epochs, values, run.colour, style))
    return lines


def _draw(axes: Any, title: str, lines: list[Line]) -> None:
    """Draw lines over the epochs; losses on a logarithmic axis, if they have one."""
    for line in lines:
        marker = None
        if len(line.values) < 2:  # a line through one point does not show
            marker = "o"
        axes.plot(
            line.epochs,
            line.values,
            color=line.colour,
            linestyle=line.style,
            linewidth=1.4,
            marker=marker,
        )
    axes.set_title(title.replace("$", r"\$"), fontsize=10, loc="left")
    axes.set_xlabel("epoch", fontsize=8)
    if "loss" in title and not any((line.values <= 0).any() for line in lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(_tick))
        axes.yaxis.set_minor_formatter(mpl.ticker.FuncFormatter(_tick))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _tick(value: float, _place: int) -> str:
    """Labels of 1, 2 and 5 times a power of ten."""
    if value <= 0:
        return ""
    first = value / 10 ** math.floor(math.log10(value))
    if round(first, 6) in _LABELLED:
        return f"{value:g}"
    return ""


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
