"""One self-contained page about some runs: what they reached, curves, what differs, pictures."""

import base64
import html
import io
import math
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker

mpl.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from tools.history.records import Record, differences, number

#: Curves beyond so many runs would be a tangle.
_RUNS_IN_A_CHART = 12
#: And so many numbers are enough.
_CHARTS = 24
_NO_CURVES = ("epoch", "seconds", "samples/s")
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-bottom: 1px solid #ddd; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid #eee; white-space: nowrap; }
thead th { background: #f6f6f6; cursor: pointer; } tbody tr:hover { background: #fafaf2; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1rem; }
.charts img { width: 100%; } .legend span { display: inline-block; margin-right: 1.2rem; font-size: 13px; }
.legend i { display: inline-block; width: 1.4em; height: .28em; margin-right: .4em; vertical-align: middle; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; }
figcaption { font-size: 12px; color: #666; }
figure img { max-width: 560px; min-width: 200px; image-rendering: pixelated; }
"""
#: A click on a heading sorts the table by it.
_SCRIPT = """
document.querySelectorAll("table.sorts th").forEach((head, column) => head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], up = head.dataset.up !== "1";
  const value = row => { const text = row.cells[column].textContent; return isNaN(text) || !text ? text : +text; };
  const order = (x, y) => typeof x !== typeof y ? (typeof x === "number" ? -1 : 1) : x < y ? -1 : +(x > y);
  const rows = [...body.rows].sort((a, b) => order(value(a), value(b)) * (up ? 1 : -1));
  head.dataset.up = up ? "1" : "0";
  rows.forEach(row => body.append(row));
}));
"""


def page(table: pd.DataFrame, records: list[Record]) -> str:
    """The page as text."""
    sections = [f"<h1>{len(records)} runs</h1>", f'<div class="wide">{_table(table, "sorts", index=False)}</div>']
    drawn = [record for record in records if len(record.history)]
    if drawn:
        sections += ["<h2>Curves</h2>", *_curves(drawn[:_RUNS_IN_A_CHART])]
        if drawn[_RUNS_IN_A_CHART:]:
            sections.append(f"<p>The first {_RUNS_IN_A_CHART} of {len(drawn)} runs.</p>")
    pictures = [picture for record in records[:_RUNS_IN_A_CHART] for picture in _pictures(record)]
    if pictures:
        sections += ["<h2>Pictures</h2>", *pictures]
    if len(records) > 1:
        differing = differences(records[:_RUNS_IN_A_CHART])
        text = _table(differing, "", index=True) if len(differing) else "<p>Nothing.</p>"
        sections += ["<h2>What differs</h2>", f'<div class="wide">{text}</div>']
    head = f'<meta charset="utf-8"><title>Runs</title><style>{_STYLE}</style>'
    body = "\n".join(sections)
    return f"<!doctype html><html><head>{head}</head><body>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"


def _table(table: pd.DataFrame, kind: str, index: bool) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, float):
            return "" if math.isnan(value) else number(value)
        return html.escape(str(value))

    # Escaped here, because pandas' own escaping is of the values before they are formatted.
    cells = table.map(shown)
    cells.columns, cells.index = (map(html.escape, map(str, axis)) for axis in (cells.columns, cells.index))
    return cells.to_html(index=index, escape=False, border=0, classes=kind)


def _curves(records: list[Record]) -> list[str]:
    """A chart for each number, training dashed and validation full, and one legend for all."""
    names = dict.fromkeys(name for record in records for name in record.history)
    names = {name: None for name in names if name not in _NO_CURVES}
    tags = [name for name in names if not (name.startswith("val_") and name[4:] in names)]
    colours = plt.colormaps["tab10" if len(records) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    charts = []
    for tag in tags[:_CHARTS]:
        figure, axes = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
        try:
            _draw(axes, tag, list(zip(records, colours, strict=False)), f"val_{tag}" in names)
            charts.append(f'<img alt="{html.escape(tag)}" src="data:image/svg+xml;base64,{_drawn(figure)}">')
        except Exception as error:  # numbers that are none, or too large to be drawn
            charts.append(f"<p>{html.escape(f'{tag}: {type(error).__name__}')}</p>")
        finally:
            plt.close(figure)
    legend = [
        f'<span><i style="background:{mpl.colors.to_hex(colour)}"></i>{html.escape(record.name)}</span>'
        for record, colour in zip(records, colours, strict=False)
    ]
    note = "<p>Full lines: validation; dashed: training.</p>" if any(name.startswith("val_") for name in names) else ""
    return [f'<p class="legend">{"".join(legend)}</p>', note, f'<div class="charts">{"".join(charts)}</div>']


def _draw(axes: Any, tag: str, coloured: list[tuple[Record, Any]], validated: bool) -> None:
    """The curves of a number, of training and of validation."""
    lowest = math.inf
    for record, colour in coloured:
        for name, style in ((tag, "--" if validated else "-"), (f"val_{tag}", "-")):
            if name in record.history and "epoch" in record.history:
                values, epochs = (pd.to_numeric(record.history[each], errors="coerce") for each in (name, "epoch"))
                lowest = min(lowest, values.min())
                line = {"color": colour, "linestyle": style, "linewidth": 1.4}
                axes.plot(epochs, values, marker="o" if len(values) < 2 else None, **line)
    axes.set_title(tag.replace("$", r"\$"), fontsize=10, loc="left")
    axes.set_xlabel("epoch", fontsize=8)
    if "loss" in tag and lowest > 0:
        axes.set_yscale("log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(mpl.ticker.FuncFormatter(_tick))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    axes.tick_params(which="both", labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _tick(value: float, _place: int) -> str:
    """Labels of 1, 2 and 5 times a power of ten."""
    first = value / 10 ** math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:g}" if round(first, 6) in (1, 2, 5) else ""


def _drawn(figure: Any) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return base64.b64encode(file.getvalue()).decode()


def _pictures(record: Record) -> list[str]:
    """The last picture of each tag in the run's event files."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

    found = []
    files = list(record.log_dir.glob("*/*tfevents*"))
    for folder in sorted({file.parent for file in files}):
        if not all(file.is_file() for file in files if file.parent == folder):
            continue  # it would be waited for
        try:
            events = EventAccumulator(str(folder), size_guidance={IMAGES: 1})
            events.Reload()
            for tag in events.Tags()["images"]:
                last = events.Images(tag)[-1]
                text = base64.b64encode(last.encoded_image_string).decode()
                label = html.escape(f"{record.name}: {tag}, step {last.step:,}")
                found.append(
                    f'<figure><img src="data:image/png;base64,{text}"><figcaption>{label}</figcaption></figure>'
                )
        except Exception as error:  # whatever a damaged event file does to its reader
            found.append(f"<p>{html.escape(f'{record.name}: {Path(folder).name}: {type(error).__name__}')}</p>")
    return found
