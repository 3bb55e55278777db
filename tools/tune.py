"""The fastest way to train a config on this machine: python tools/tune.py -c config.json

Each setting is measured in a process of its own, on the config's own data and updates, until some
two minutes have passed. Nothing is changed: the last lines are the command that it recommends.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError
from machinery.files import ROOT, shown_command
from machinery.telling import catch_user_errors, printable
from tools import children

Settings = dict[str, Any]
_SAME = "same bits"
_OTHER = "other last bits"
#: What a setting costs in exactness; a resumed run is the unbroken one with any of them.
_COSTS = {
    "trainer.threads": [_OTHER],
    "data_loader.args.num_workers": [_SAME],
    "data_loader.args.pin_memory": [_SAME],
    "data_loader.args.device_resident": [_OTHER],
    "trainer.precision": ["fewer bits in most products"],
    "trainer.cudnn_benchmark": ["other last bits each time"],
    "trainer.compile": [_OTHER, "other draws of dropout"],
    "trainer.channels_last": [_OTHER],
    "optimizer.args.fused": [_OTHER],
    "data_loader.args.batch_size": ["another training"],
}
#: By how much a setting has to be faster than without it.
_WORTH = 1.03
#: By how much larger batches have to be, for still larger ones to be measured.
_WORTH_OF_BATCHES = 1.1
#: By how much two measurements of the same may differ.
_QUIET = 0.1
_LONGEST_ERROR = 300
#: Letters of a line, and of the names in it.
_WIDTH, _NAME = 80, 25
#: Measurements at the end, of what is recommended and of the config as it stands.
_AT_THE_END = 2
#: What they get of all the time, at most.
_RESERVED = 0.4


_BEGINS = (
    "Each setting is measured for {seconds:g} s, in a process of its own, until "
    "{minutes:g} minutes have passed. Nothing is changed; what is recommended comes last."
)


class Figure(NamedTuple):
    """What was measured, or why it could not be."""

    rate: float = 0.0
    memory: float = 0.0
    losses: tuple[float, ...] = ()
    warm: float = 0.0
    error: str = ""


class Tuner:
    """Measures settings of one config.

    Args:
        words: of train.py's command line.
        seconds: how long each is measured, after its first steps.
        runs: how often; the fastest counts, because whatever else runs makes them slower.
        limit: after so many seconds, nothing new is begun.
    """

    def __init__(
        self, words: list[str], seconds: float, runs: int, limit: float = math.inf
    ) -> None:
        self.words = words
        self.seconds = seconds
        self.runs = runs
        #: Of the machine and the config, once something was measured.
        self.facts: dict[str, Any] = {}
        #: Of the config as it stands.
        self.plain = Figure()
        self.limit = limit
        self.end = time.monotonic() + limit
        #: What the fastest measurement so far has taken, in seconds.
        self.each = math.inf
        #: What there was no time for.
        self.left_out: list[str] = []

    def has_time(self, settings: Settings) -> bool:
        """Whether a measurement may begin, so that there is time for those at the end."""
        needed = min(self.each * (1 + _AT_THE_END), _RESERVED * self.limit)
        if time.monotonic() + needed <= self.end:
            return True
        self.left_out.append(named(settings))
        return False

    def measure_plain(self) -> None:
        """Measure the config as it stands.

        Raises:
            ConfigError: it cannot be trained.
        """
        self.plain = self.figure({})
        if self.plain.error:
            raise ConfigError(f"it does not train as it stands: {self.plain.error}")

    def figure(self, settings: Settings) -> Figure:
        """The best of some runs."""
        best = Figure()
        started = time.monotonic()
        for _ in range(self.runs):
            figure = self._once(settings)
            if figure.error:
                return figure
            if figure.rate > best.rate:
                best = figure
        self.each = min(self.each, time.monotonic() - started)
        return best

    def _once(self, settings: Settings) -> Figure:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "figures.json"
            arguments = f"{self.seconds!r}, {str(file)!r}"
            code = f"from tools.tuning.measuring import main; main({arguments})"
            result = subprocess.run(
                [sys.executable, "-c", code, *self.words, *children.setting_words(settings)],
                capture_output=True,
                text=True,
                **children.options({"PYTHONPATH": str(ROOT)}),
            )
            if result.returncode != 0 or not file.exists():
                return Figure(error=_why(result)[:_LONGEST_ERROR])
            found = json.loads(file.read_text(encoding="utf-8"))
        if not self.facts:
            self.facts = found["facts"]
        return Figure(found["rate"], found["memory"], tuple(found["losses"]), found["warm"])

    def line(self, name: str, figure: Figure) -> str:
        """A row of the table; in a second line what has no room."""
        if figure.error:
            return _in_lines(f"{name}: {figure.error}")
        gain = figure.rate / self.plain.rate
        loss_off = self._loss_off(figure)
        shown = f"{loss_off:.1g}"
        if math.isnan(loss_off) or "batch_size" in name:
            shown = ""
        remarks = _costs(name, loss_off)
        if "compile" in name:
            remarks.append(f"{figure.warm:.0f} s until it runs")
        numbers = f"{figure.rate:>10,.0f} {gain:>5.2f} {figure.memory:>6,.0f} MB {shown:>7}"
        text = f"{name:<{_NAME}} {numbers}"
        if len(name) > _NAME:
            text = f"{name}\n{'':<{_NAME}} {numbers}"
        told = ", ".join(remarks)
        if len(told) > _WIDTH - _NAME - len(numbers) - 3:
            return f"{text}\n    {told}"
        return f"{text}  {told}".rstrip()

    def _loss_off(self, figure: Figure) -> float:
        """How far the losses are off those of the config as it stands.

        NaN of a trainer whose losses nobody sees.
        """
        pairs = zip(figure.losses, self.plain.losses, strict=False)
        return max((abs(loss - plain) for loss, plain in pairs), default=math.nan)


def _in_lines(text: str) -> str:
    """A text in lines that fit a terminal."""
    return textwrap.fill(text, _WIDTH, subsequent_indent="    ", break_long_words=False)


def _why(result: subprocess.CompletedProcess[str]) -> str:
    """Why a process has failed: its error, else the last that it told."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    for line in lines:
        if line.startswith("error"):
            return line.removeprefix("error: ")
    if lines:
        return lines[-1]
    return f"exit {result.returncode}"


def _costs(name: str, loss_off: float) -> list[str]:
    """What the settings of a row cost in exactness, each cost once."""
    found: list[str] = []
    for key, costs in _COSTS.items():
        if f"{key}=" in name or f"{_short(key)}=" in name:
            found += costs
    found = list(dict.fromkeys(found))
    if found != [_SAME]:
        return [cost for cost in found if cost != _SAME]
    if math.isnan(loss_off):
        return ["losses unknown"]
    if loss_off > 0:
        return ["other batches"]
    return found


def alternatives(facts: dict[str, Any]) -> Iterator[Settings]:
    """Each setting that may be faster on this machine."""
    on_cpu = facts["device"] == "cpu"
    if on_cpu:
        for threads in sorted({1, facts["cores"]}):
            if threads != facts["threads"]:
                yield {"trainer.threads": threads}
    yield from _ways_to_load(facts)
    if not on_cpu:
        yield {"trainer.precision": "tf32"}
        yield {"trainer.precision": "fp16"}
        if facts["convolves"]:
            yield {"trainer.cudnn_benchmark": True}
    yield {"trainer.precision": "bf16"}
    if facts["convolves"]:
        yield {"trainer.channels_last": not facts["channels_last"]}
    if facts["fuses"]:
        yield {"optimizer.args.fused": not facts["fused"]}
    yield from _ways_to_compile(facts)  # which take the longest


def _ways_to_compile(facts: dict[str, Any]) -> Iterator[Settings]:
    """Each way to compile the model that is not the present one."""
    ways: list[bool | str] = []
    if facts["blocks"]:
        ways.append("blocks")
    ways.append(True)
    if facts["device"] != "cpu":
        ways.append("reduce-overhead")
    for way in ways:
        if way != facts["compile"]:
            yield {"trainer.compile": way}


def _ways_to_load(facts: dict[str, Any]) -> Iterator[Settings]:
    """Each setting of the data loader that may be faster."""
    for workers in (0, 1, 2, 4, 8):
        if workers <= facts["cores"] and workers != facts["workers"]:
            yield {"data_loader.args.num_workers": workers}
    if facts["device"] == "cpu":
        return
    for name in ("pin_memory", "device_resident"):
        if name in facts["arguments"]:
            yield {f"data_loader.args.{name}": True}


class Faster(NamedTuple):
    """Settings, and how fast the config trains with them."""

    rate: float
    settings: Settings


def tuned(tuner: Tuner, tell: Callable[[str], None]) -> Settings:
    """Measure each setting, then the good ones together; the fastest combination.

    Args:
        tell: is given each line of the table.

    Raises:
        ConfigError: the config cannot be trained.
    """
    tuner.measure_plain()
    heads = f"{'samples/s':>10} {'gain':>5} {'memory':>9} {'losses':>7}"
    tell(f"{'':<{_NAME}} {heads}  (how far off)")
    tell(tuner.line("as it stands", tuner.plain))
    best = _together(tuner, _alone(tuner, tell), tell)
    _larger_batches(tuner, best, tell)
    return best.settings


def _alone(tuner: Tuner, tell: Callable[[str], None]) -> list[Faster]:
    """Measure each setting alone: the best value of each that is worth it, the fastest first."""
    found: dict[str, Faster] = {}
    for settings in alternatives(tuner.facts):
        if not tuner.has_time(settings):
            continue
        figure = tuner.figure(settings)
        tell(tuner.line(named(settings), figure))
        if figure.rate <= tuner.plain.rate * _WORTH:
            continue
        (key,) = settings
        if key not in found or figure.rate > found[key].rate:
            found[key] = Faster(figure.rate, settings)
    return sorted(found.values(), key=attrgetter("rate"), reverse=True)


def _together(tuner: Tuner, found: list[Faster], tell: Callable[[str], None]) -> Faster:
    """Add one good setting after the other, as long as that is worth it."""
    if not found:
        return Faster(tuner.plain.rate, {})
    best = found[0]
    for faster in found[1:]:
        both = {**best.settings, **faster.settings}
        if not tuner.has_time(both):
            continue
        figure = tuner.figure(both)
        tell(tuner.line(named(both), figure))
        if figure.rate > best.rate * _WORTH:
            best = Faster(figure.rate, both)
    return best


def _larger_batches(tuner: Tuner, best: Faster, tell: Callable[[str], None]) -> None:
    """Batches of twice the size, as long as that is faster and memory takes it."""
    size = tuner.facts["batch"]
    if size is None:
        return
    rate = best.rate
    while 2 * size <= tuner.facts["samples"]:
        size *= 2
        larger = {"data_loader.args.batch_size": size}
        if not tuner.has_time(larger):
            return
        figure = tuner.figure({**best.settings, **larger})
        name = named(larger)
        if best.settings:
            name = f"{name}, and these"
        tell(tuner.line(name, figure))
        if figure.rate < rate * _WORTH_OF_BATCHES:
            return
        rate = figure.rate


def named(settings: Settings) -> str:
    """The settings as one reads them in the table."""
    words = []
    for key, value in settings.items():
        words.append(_unquoted(f"{_short(key)}={json.dumps(value)}"))
    return " ".join(words)


def _short(key: str) -> str:
    return key.rpartition(".")[2]


def _unquoted(word: str) -> str:
    """A setting without the quotes of its JSON, of which a command line has no need."""
    return word.replace('"', "")


def main() -> None:
    """The command line: that of train.py, with the time to measure."""
    args, words = _parser().parse_known_args()
    if args.runs < 1 or not 0 < args.seconds < 1e6 or not args.minutes > 0:
        raise ConfigError("--runs is at least 1, and --seconds and --minutes more than 0")
    if not {"-c", "--config", "-r", "--resume"} & {word.partition("=")[0] for word in words}:
        raise ConfigError("say what to tune: -c CONFIG")
    # The measuring process and its folder are not left behind.
    children.leave_at(["SIGTERM", "SIGHUP"])
    limit = args.minutes * 60
    print(_in_lines(_BEGINS.format(seconds=args.seconds, minutes=args.minutes)), flush=True)
    tuner = Tuner(words, args.seconds, args.runs, limit)
    best = tuned(tuner, _tell)
    for line in recommendation(tuner, best):
        print(printable(line))


def recommendation(tuner: Tuner, best: Settings) -> Iterator[str]:
    """The lines that end the table: what was found is measured once more, beside what there is."""
    again = tuner.figure({})
    if not 1 - _QUIET < again.rate / tuner.plain.rate < 1 + _QUIET:
        yield tuner.line("as it stands, again", again)
        yield _in_lines(
            "the machine was not as quiet all the time: do not trust this, and measure once more"
        )
    if tuner.left_out:
        yield _in_lines(f"no time for: {', '.join(tuner.left_out)}")
    if not best:
        yield "nothing is faster than the config as it stands"
        return
    figure = tuner.figure(best)
    gain = figure.rate / max(again.rate, 1e-9)
    if gain < _WORTH:
        yield _in_lines(
            f"nothing is faster for sure: {named(best)}, measured once more, {gain:.2f} times"
        )
        return
    words = tuner.words + [_unquoted(word) for word in children.setting_words(best)]
    yield f"recommended, {gain:.2f} times as fast, measured once more:"
    yield shown_command(ROOT / "train.py", *words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure what makes a config train faster on this machine.",
        epilog="Whatever else is given is for train.py, and says what to measure: "
        "-c CONFIG, --set KEY=VALUE, …",
        allow_abbrev=False,
    )
    seconds = "how long each setting is measured (2)"
    parser.add_argument("--seconds", type=float, default=2.0, help=seconds)
    runs = "how often; the fastest counts (1)"
    parser.add_argument("--runs", type=int, default=1, help=runs)
    minutes = "after so many, nothing new is measured (2)"
    parser.add_argument("--minutes", type=float, default=2.0, help=minutes)
    return parser


def _tell(line: str) -> None:
    print(printable(line), flush=True)


if __name__ == "__main__":
    catch_user_errors()
    main()
