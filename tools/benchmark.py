"""Compare the template with bare loops that compute the same numbers: python tools/benchmark.py

Both sides of a case run in turn; the table shows medians and ratios, and the range of the ratios. Ratios of one run can
be compared with those of another machine; seconds cannot. OMP_NUM_THREADS=1 and a quiet machine make them steadier.
Lightning, accelerate and ignite are measured too, once, where they are installed.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from machinery.files import ROOT
from tools.benchmarks import commands, loops, processes
from tools.benchmarks.loops import Case


def cases(quick: bool) -> dict[str, Callable[[Path], Case]]:
    """The cases by name; each is built when its turn comes."""
    n = 32_000 if quick else 160_000
    return {
        "epoch": lambda folder: loops.lenet(folder, 1 if quick else 15),
        "tuned": lambda folder: loops.lenet(folder, 1 if quick else 15, channels_last=True, fused=True),
        "resnet": lambda folder: loops.lenet(
            folder, 1, loops.small_resnet, "a small ResNet", channels_last=True, fused=True, precision="bf16"
        ),
        "step": lambda folder: loops.steps(folder, n, grows=False),
        "base": lambda folder: loops.steps(folder, n, name="the same; and with ten times …"),
        "samples": lambda folder: loops.steps(folder, 10 * n, name="… the samples"),
        "epochs": lambda folder: loops.steps(folder, n, epochs=10, name="… the epochs"),
        "parameters": lambda folder: loops.steps(folder, n, width=80, name="… the parameters"),
        "validation": loops.validation,
        "input": lambda folder: loops.pipeline(augment=False),
        "augmented": lambda folder: loops.pipeline(augment=True),
        "checkpoint": loops.saving,
        "start": lambda folder: commands.start(folder, "the bare loop's", "tools/bare_loop.py", "--steps", "1"),
        "import": lambda folder: commands.start(folder, "importing torch", "-c", "import torch"),
        "run": lambda folder: commands.whole(folder, 2 if quick else 40),
        "processes": processes.against_ddp,
        "scaling": processes.against_one,
        "accuracy": lambda folder: commands.accuracy(folder, 0.9 if quick else 0.96),
    }


def figure(case: Case, runs: int) -> dict[str, Any]:
    """Run both sides of a case in turn, and print its line of the table."""
    case.ours(), case.bare()  # what the first run alone pays for
    pairs = [(case.ours(), case.bare()) for _ in range(runs)]
    ours, bare = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(a / b for a, b in pairs)
    extra = statistics.median(a - b for a, b in pairs)
    others = {name: side() / bare for name, side in case.others.items()}
    print(
        f"{case.name:<55} {shown(ours):>10} {shown(bare):>10} {ours / bare:7.3f} "
        f"{f'{ratios[0]:.3f} to {ratios[-1]:.3f}':>17} {shown(extra):>10} / {case.unit}"
        + "".join(f", {name} {ratio:.2f}" for name, ratio in others.items()),
        flush=True,
    )
    keys = {"case": case.name, "unit": case.unit, "ours_s": ours, "bare_s": bare, "ratio": ours / bare}
    return {**keys, "ratios": ratios, "extra_s": extra, "others": others, "runs": runs, "torch": str(torch.__version__)}


def shown(seconds: float) -> str:
    """Seconds in a unit that suits them."""
    scale, unit = next(((s, u) for s, u in ((1, "s"), (1e3, "ms")) if abs(seconds) * s >= 1), (1e6, "µs"))
    return f"{seconds * scale:.1f} {unit}"


def peak(case: Callable[[Path], Case], side: str, folder: Path) -> float:
    """The MB of memory that a side of a case adds at most to the process, or takes on the GPU."""
    small = loops.steps(folder, 320)
    small.ours(), small.bare()  # what torch imports at its first step is in neither
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        PEAK.write_text("5")  # the peak begins anew
    before = _peak_so_far()
    built = case(folder)
    (built.ours if side == "ours" else built.bare)()
    return _peak_so_far() - before


#: Linux forgets the highest memory of the process when 5 is written there.
PEAK = Path("/proc/self/clear_refs")


def _peak_so_far() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def peaks(name: str, quick: bool) -> dict[str, float]:
    """The peak memory of both sides, each in a process of its own."""
    found = {}
    for side in ("ours", "bare"):
        command = [sys.executable, __file__, "--only", name, "--peak", side, *(["--quick"] if quick else [])]
        output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        found[f"{side}_peak_mb"] = float(output)
    print(f"{'':<55} {found['ours_peak_mb']:>7.1f} MB {found['bare_peak_mb']:>7.1f} MB at the peak", flush=True)
    return found


def main() -> None:
    """Run the cases and print the table."""
    names = list(cases(quick=True))
    parser = argparse.ArgumentParser(description="Compare the template with bare loops.")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="smaller cases")
    parser.add_argument(
        "--only", nargs="+", metavar="CASE", choices=names, default=names, help=f"some of {', '.join(names)}"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--peak", choices=["ours", "bare"], help="print the peak memory of a side of the one case, in MB"
    )
    args = parser.parse_args()
    if args.runs < 1 or (args.peak and len(args.only) != 1):
        parser.error("--runs is at least 1, and --peak wants --only with one case")
    if args.json:
        with args.json.open("a"):  # an error now rather than after the measurements
            pass
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), cases(args.quick)
        if args.peak:
            print(peak(found[args.only[0]], args.peak, folder))
            return
        print(f"{'':<55} {'template':>10} {'bare loop':>10} {'ratio':>7} {'range':>17} {'extra':>10}")
        figures = []
        for key in args.only:
            case = found[key](folder)
            row = {"key": key, **figure(case, args.runs)}
            measured = case.grows and (torch.cuda.is_available() or PEAK.exists())
            figures.append({**row, **(peaks(key, args.quick) if measured else {})})
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
