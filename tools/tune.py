"""The fastest way to train a config on this machine: python tools/tune.py -c config.json

Each setting is measured in a process of its own, on the config's own data and updates. Nothing is changed: the last
line is what to add to the command of train.py.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError
from machinery.files import ROOT, shown_command
from machinery.telling import catch_user_errors, printable
from tools.sweeping.point import die_with_parent

Settings = dict[str, Any]
#: What a setting costs in exactness; a resumed run is the unbroken one with any of them.
_COSTS = {
    "trainer.threads": "other last bits",
    "data_loader.args.num_workers": "same bits",
    "data_loader.args.pin_memory": "same bits",
    "data_loader.args.device_resident": "other last bits",
    "trainer.precision": "16 bits in most products",
    "trainer.compile": "other last bits, other draws of dropout",
    "trainer.channels_last": "other last bits",
    "optimizer.args.fused": "other last bits",
    "data_loader.args.batch_size": "another training",
}
#: By how much a setting has to be faster than without it.
_WORTH = 1.03


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
    """

    def __init__(self, words: list[str], seconds: float, runs: int) -> None:
        self.words, self.seconds, self.runs = words, seconds, runs
        self.facts: dict[str, Any] = {}
        self.plain = Figure()

    def figure(self, settings: Settings) -> Figure:
        """The best of some runs."""
        best = Figure()
        for _ in range(self.runs):
            found = self._once(settings)
            if found.error:
                return found
            best = max(best, found, key=lambda each: each.rate)
        return best

    def _once(self, settings: Settings) -> Figure:
        words = [word for pair in settings.items() for word in ("--set", f"{pair[0]}={json.dumps(pair[1])}")]
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "figures.json"
            code = f"from tools.tuning.measuring import main; main({self.seconds!r}, {str(out)!r})"
            command = [sys.executable, "-c", code, *self.words, *words]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            options: Any = {"preexec_fn": die_with_parent} if sys.platform == "linux" else {}
            result = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
            if result.returncode or not out.exists():
                lines = [line for line in result.stderr.splitlines() if line.strip()] or [f"exit {result.returncode}"]
                return Figure(error=next((line for line in lines if line.startswith("error")), lines[-1])[:300])
            found = json.loads(out.read_text(encoding="utf-8"))
        self.facts = self.facts or found["facts"]
        return Figure(found["rate"], found["memory"], tuple(found["losses"]), found["warm"])

    def line(self, name: str, figure: Figure) -> str:
        """A row of the table."""
        if figure.error:
            return f"{name:<45} {figure.error}"
        pairs = zip(figure.losses, self.plain.losses, strict=False)
        apart = max((abs(a - b) for a, b in pairs), default=math.nan)  # of a trainer whose losses nobody sees
        same = "" if "batch_size" in name or math.isnan(apart) else f"{apart:.1g}" if apart else "0"
        costs = [cost for key, cost in _COSTS.items() if key in name or _short(key) in name]
        if set(costs) == {"same bits"} and apart:
            costs = ["other batches" if apart > 0 else "losses unknown"]
        costs = [each for each in costs if each != "same bits" or set(costs) == {each}]
        cost = ", ".join(dict.fromkeys(part for each in costs for part in each.split(", ")))
        slow = f"{', ' if cost else ''}{figure.warm:.0f} s until it runs" if "compile" in name else ""
        gain = figure.rate / self.plain.rate
        return (
            f"{name:<45} {figure.rate:>10,.0f} {gain:>6.2f} {figure.memory:>7,.0f} MB {same:>8}  {cost}{slow}".rstrip()
        )


def alternatives(facts: dict[str, Any]) -> Iterator[Settings]:
    """Each setting that may be faster on this machine."""
    cores, gpu = facts["cores"], facts["device"] != "cpu"
    if not gpu:
        yield from ({"trainer.threads": n} for n in sorted({1, cores}) if n != facts["threads"])
    workers = sorted({0, 1, 2, 4, 8} & set(range(cores + 1)))
    yield from ({"data_loader.args.num_workers": n} for n in workers if n != facts["workers"])
    if gpu:
        yield from (
            {f"data_loader.args.{n}": True} for n in ("pin_memory", "device_resident") if n in facts["arguments"]
        )
        yield {"trainer.precision": "fp16"}
    yield {"trainer.precision": "bf16"}
    yield {"trainer.compile": True}
    if facts["convolves"]:
        yield {"trainer.channels_last": True}
    if facts["fused"]:
        yield {"optimizer.args.fused": True}


def tuned(tuner: Tuner, tell: Callable[[str], None]) -> Settings:
    """Measure each setting, then the good ones together; the fastest combination."""
    tuner.plain = tuner.figure({})
    if tuner.plain.error:
        raise ConfigError(f"it does not train as it stands: {tuner.plain.error}")
    tell(f"{'':<45} {'samples/s':>10} {'gain':>6} {'memory':>10} {'loss off':>8}")
    tell(tuner.line("as it stands", tuner.plain))
    found: dict[str, tuple[float, Settings]] = {}
    for settings in alternatives(tuner.facts):
        figure = tuner.figure(settings)
        tell(tuner.line(named(settings), figure))
        (key,) = settings
        if figure.rate > max(tuner.plain.rate * _WORTH, found.get(key, (0.0,))[0]):
            found[key] = (figure.rate, settings)
    best = tuner.plain.rate
    together: Settings = {}
    for rate, settings in sorted(found.values(), key=lambda pair: pair[0], reverse=True):
        if not together:
            best, together = rate, settings
            continue
        figure = tuner.figure({**together, **settings})
        tell(tuner.line(named({**together, **settings}), figure))
        if figure.rate > best * _WORTH:
            best, together = figure.rate, {**together, **settings}
    _larger_batches(tuner, together, best, tell)
    return together


def _larger_batches(tuner: Tuner, together: Settings, best: float, tell: Callable[[str], None]) -> None:
    """Batches of twice the size, as long as that is faster and memory takes it."""
    size, before = tuner.facts["batch"], best
    if size is None:
        return
    while 2 * size <= tuner.facts["samples"]:
        size *= 2
        figure = tuner.figure({**together, "data_loader.args.batch_size": size})
        tell(tuner.line(named({"data_loader.args.batch_size": size}) + (", and these" if together else ""), figure))
        if figure.rate < before * 1.1:
            return
        before = figure.rate


def named(settings: Settings) -> str:
    """The settings as one reads them in the table."""
    short = {key: _short(key) if len(settings) > 1 else key for key in settings}
    return " ".join(f"{short[key]}={json.dumps(value)}".replace('"', "") for key, value in settings.items())


def _short(key: str) -> str:
    return key.replace(".args.", ".")


def main() -> None:
    """The command line: that of train.py, with the time to measure."""
    more = "Whatever else is given is for train.py, and says what to measure: -c CONFIG, --set KEY=VALUE, …"
    parser = argparse.ArgumentParser(
        description="Measure what makes a config train faster on this machine.", epilog=more, allow_abbrev=False
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each setting is measured (3)")
    parser.add_argument("--runs", type=int, default=2, help="how often; the fastest counts (2)")
    args, words = parser.parse_known_args()
    if args.runs < 1 or not 0 < args.seconds < 1e6:
        raise ConfigError("--runs is at least 1, and --seconds more than 0")
    if not {"-c", "--config", "-r", "--resume"} & {word.partition("=")[0] for word in words}:
        raise ConfigError("say what to tune: -c CONFIG")
    for signum in (signal.SIGTERM, signal.SIGHUP):  # the measuring process and its folder are not left behind
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as by nohup
            signal.signal(signum, lambda number, _frame: sys.exit(128 + number))
    tuner = Tuner(words, args.seconds, args.runs)
    best = tuned(tuner, lambda line: print(printable(line), flush=True))
    again = tuner.figure({})
    if not 0.9 < again.rate / tuner.plain.rate < 1.1:
        print(tuner.line("as it stands, again", again))
        print("the machine was not as quiet all the time: do not trust this, and measure once more")
    if not best:
        print("nothing is faster than the config as it stands")
        return
    words += [word for key, value in best.items() for word in ("--set", f"{key}={json.dumps(value)}".replace('"', ""))]
    print(f"recommended: {shown_command(ROOT / 'train.py', *words)}")


if __name__ == "__main__":
    catch_user_errors()
    main()
