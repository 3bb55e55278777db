"""How well the template uses this machine's GPU: python tools/gpu_check.py

One table: synchronisations, the loop's own time, what each switch gives, images as bytes, tokens a
second, a killed run, memory. Each row with a goal says whether it is met; exit 1 if one is not. On
a CPU all of it runs small, and times are not judged.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from machinery.errors import ConfigError
from machinery.telling import catch_user_errors, printable
from tools import children
from tools.benchmarks.loops import device
from tools.gpu_checks import interrupted, language, rows
from tools.gpu_checks.rows import Row

Part = Callable[[Path], Iterator[Row]]
#: The parts by name; each yields rows.
PARTS: dict[str, Part] = {
    "waits": rows.synchronisations,
    "steps": rows.small_steps,
    "switches": rows.switches,
    "images": rows.images_as_bytes,
    "tokens": language.tokens,
    "killed": interrupted.killed,
    "memory": interrupted.memory,
    "trace": interrupted.trace,
}


def shown(row: Row) -> str:
    """A line of the table, of 100 columns at most."""
    value = "-"
    if not math.isnan(row.value):
        value = f"{row.value:,.3f}"
        if row.value == int(row.value) or abs(row.value) >= 1000:
            value = f"{row.value:,.0f}"
    goal = ""
    if row.most is not None:
        goal = f"<= {row.most:g}"
    elif row.least is not None:
        goal = f">= {row.least:g}"
    return f"{row.name:<58} {value:>11} {row.unit:<10} {goal:>8} {row.judged():>4}".rstrip()


def table(parts: dict[str, Part]) -> Iterator[Row]:
    """The rows of some parts; one that fails is a row, too."""
    for part in parts.values():
        rows.free()
        with tempfile.TemporaryDirectory() as folder:
            yield from part(Path(folder))


def main() -> None:
    """The command line."""
    arguments = _arguments()
    children.leave_at(["SIGTERM", "SIGHUP"])
    where = "CPU: all is small, and times are not judged"
    if device().type == "cuda":
        where = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {where}")
    started = time.perf_counter()
    found = []
    for row in table(_parts(arguments)):
        print(printable(shown(row)), flush=True)
        found.append(row)
    print(f"{time.perf_counter() - started:.0f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([row._asdict() for row in found]), encoding="utf-8")
    _judge(found)


def _parts(arguments: argparse.Namespace) -> dict[str, Part]:
    """Those that are asked for."""
    parts = {name: PARTS[name] for name in arguments.only or PARTS}
    if arguments.trace is not None:
        parts["trace"] = partial(interrupted.trace, kept=arguments.trace)
    return parts


def _judge(found: list[Row]) -> None:
    """End with what is not met."""
    missed = [row.name for row in found if row.judged() == "NO"]
    if missed:
        sys.exit(f"not met: {'; '.join(missed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how well the GPU is used.")
    only = f"some parts alone: {', '.join(PARTS)}"
    parser.add_argument("--only", nargs="+", metavar="PART", help=only)
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--trace", type=Path, help="a file for the trace of three steps")
    arguments = parser.parse_args()
    unknown = {*(arguments.only or ())} - PARTS.keys()
    if unknown:
        raise ConfigError(f"--only: no part {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    return arguments


if __name__ == "__main__":
    catch_user_errors()
    main()
