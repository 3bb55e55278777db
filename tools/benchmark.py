"""Compare the template with bare loops that compute the same numbers: python tools/benchmark.py

Both sides of a case run in turn, those of steps step by step in pairs; the table shows medians and
ratios, and the range of the ratios.
Ratios of one run can be compared with those of another machine; seconds cannot. OMP_NUM_THREADS=1
and a quiet machine make them steadier. Lightning, accelerate and ignite are measured too, once,
where they are installed.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from machinery.files import ROOT
from tools.benchmarks import commands, loops, processes, steps
from tools.benchmarks.loops import Case

#: Makes a case in a folder.
Build = Callable[[Path], Case]
#: Linux forgets the highest memory of the process when 5 is written there.
PEAK = Path("/proc/self/clear_refs")
_HEADER = f"{'':<37} {'template':>10} {'bare loop':>10} {'ratio':>7} {'range':>14} {'extra':>9}"


class Sizes(NamedTuple):
    """How large the cases are."""

    #: Of the bundled digits.
    copies: int
    #: Of the linear model.
    samples: int
    #: Of whole runs.
    epochs: int
    #: That has to be reached.
    accuracy: float


_QUICK = Sizes(copies=1, samples=32_000, epochs=2, accuracy=0.9)
_FULL = Sizes(copies=15, samples=160_000, epochs=40, accuracy=0.96)


def cases(quick: bool) -> dict[str, Build]:
    """The cases by name; each is built when its turn comes."""
    sizes = _QUICK if quick else _FULL
    return {**_of_loops(sizes), **_of_programs(sizes)}


def _of_loops(sizes: Sizes) -> dict[str, Build]:
    """The cases within this process."""
    linear = partial(steps.in_turn, n=sizes.samples)
    tuned: dict[str, Any] = {"channels_last": True, "fused": True}
    resnet = partial(loops.lenet, copies=1, network=loops.small_resnet, name="ResNet")
    return {
        "epoch": partial(loops.lenet, copies=sizes.copies),
        "tuned": partial(loops.lenet, copies=sizes.copies, **tuned),
        "resnet": partial(resnet, precision="bf16", **tuned),
        "step": partial(steps.paired_linear, n=sizes.samples),
        "lenet": partial(steps.paired_lenet, copies=sizes.copies),
        "base": partial(linear, name="linear model; and with ten times …"),
        "samples": partial(steps.in_turn, n=10 * sizes.samples, name="… the samples"),
        "epochs": partial(linear, epochs=10, name="… the epochs"),
        "parameters": partial(linear, width=80, name="… the parameters"),
        "validation": loops.validation,
        "input": partial(loops.pipeline, augment=False),
        "augmented": partial(loops.pipeline, augment=True),
        "checkpoint": loops.saving,
    }


def _of_programs(sizes: Sizes) -> dict[str, Build]:
    """The cases that start programs."""
    bare_step = ("tools/bare_loop.py", "--steps", "1")
    import_torch = ("-c", "import torch")
    return {
        "start": partial(commands.start, what="the bare loop", other=bare_step),
        "import": partial(commands.start, what="import torch", other=import_torch),
        "run": partial(commands.whole, epochs=sizes.epochs),
        "processes": processes.against_ddp,
        "scaling": processes.against_one,
        "accuracy": partial(commands.accuracy, target=sizes.accuracy),
    }


def figure(case: Case, runs: int) -> dict[str, Any]:
    """Run both sides of a case in turn, and print its lines of the table."""
    case.run()  # what the first run alone pays for
    pairs = [case.run() for _ in range(runs)]
    ours = statistics.median([pair.ours for pair in pairs])
    bare = statistics.median([pair.bare for pair in pairs])
    extra = statistics.median([pair.ours - pair.bare for pair in pairs])
    ratios = sorted(pair.ratio for pair in pairs)
    others = {name: pair().ratio for name, pair in case.others.items()}
    row = {
        "case": case.name,
        "unit": case.unit,
        "ours_s": ours,
        "bare_s": bare,
        "ratio": ours / bare,
        "ratios": ratios,
        "extra_s": extra,
        "others": others,
        "runs": runs,
        "torch": str(torch.__version__),
    }
    print(_line(row), flush=True)
    for name, ratio in others.items():
        print(f"  {name:<35} {'':>10} {'':>10} {ratio:7.3f}", flush=True)
    return row


def _line(row: dict[str, Any]) -> str:
    """A case's line of the table."""
    seconds = f"{shown(row['ours_s']):>10} {shown(row['bare_s']):>10}"
    ratios = f"{row['ratios'][0]:.3f} to {row['ratios'][-1]:.3f}"
    extra = f"{shown(row['extra_s']):>9} / {row['unit']}"
    return f"{row['case']:<37} {seconds} {row['ratio']:7.3f} {ratios:>14} {extra}"


def shown(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    if abs(seconds) >= 1:
        return f"{seconds:.1f} s"
    if abs(seconds) >= 1e-3:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds * 1e6:.1f} µs"


def peak(build: Build, side: str, folder: Path) -> float:
    """The MB of memory that a side of a case adds at most to the process, or takes on the GPU."""
    steps.in_turn(folder, 320).run()  # what torch imports at its first step is in neither
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        PEAK.write_text("5")  # the peak begins anew
    before = _peak_so_far()
    case = build(folder)
    run = case.ours if side == "ours" else case.bare
    assert run is not None
    run()
    return _peak_so_far() - before


def _peak_so_far() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def peaks(name: str, quick: bool) -> dict[str, float]:
    """The peak memory of both sides, each in a process of its own."""
    found = {}
    for side in ("ours", "bare"):
        command = [sys.executable, __file__, "--only", name, "--peak", side]
        if quick:
            command.append("--quick")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found[f"{side}_peak_mb"] = float(done.stdout)
    ours = f"{found['ours_peak_mb']:>7.1f} MB"
    bare = f"{found['bare_peak_mb']:>7.1f} MB"
    print(f"{'':<37} {ours} {bare} at the peak", flush=True)
    return found


def parsed() -> argparse.Namespace:
    """The command line."""
    names = list(cases(quick=True))
    parser = argparse.ArgumentParser(description="Compare the template with bare loops.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="smaller cases")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="CASE",
        choices=names,
        default=names,
        help=f"some of {', '.join(names)}",
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--peak",
        choices=["ours", "bare"],
        help="print the peak memory of a side of the one case, in MB",
    )
    args = parser.parse_args()
    if args.runs < 1 or (args.peak and len(args.only) != 1):
        parser.error("--runs is at least 1, and --peak wants --only with one case")
    return args


def main() -> None:
    """Run the cases and print the table."""
    args = parsed()
    if args.json:
        with args.json.open("a"):  # an error now rather than after the measurements
            pass
    logging.disable(logging.WARNING)
    known = cases(args.quick)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.peak:
            print(peak(known[args.only[0]], args.peak, folder))
            return
        print(_HEADER)
        figures = []
        for key in args.only:
            case = known[key](folder)
            row = {"key": key, **figure(case, args.runs)}
            if case.grows and (torch.cuda.is_available() or PEAK.exists()):
                row.update(peaks(key, args.quick))
            figures.append(row)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
