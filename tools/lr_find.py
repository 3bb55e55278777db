"""Which learning rate to begin with: python tools/lr_find.py -c config.json

The rate rises from update to update until the loss runs away; a picture shows the loss against it. Nothing is kept.
Source: Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError
from machinery.files import shown
from parse_config import ConfigParser
from tools.pictures import picture_file, pyplot as plt, save
from train import OPTIONS, build


def searched(trainer: Any) -> tuple[int, str]:
    """The group of parameters whose rate is searched, and the key of the config that sets it; "" if none does."""
    config, groups = trainer.config, trainer.optimizer.param_groups
    schedule = config.config.get("lr_scheduler") or {}
    if "max_lr" in schedule.get("args", {}):
        return 0, "lr_scheduler.args.max_lr"
    lr = config["optimizer"].get("args", {}).get("lr", trainer.optimizer.defaults.get("lr"))
    same = [k for k, group in enumerate(groups) if _rate(group) == lr]
    return (same[0], "optimizer.args.lr") if same else (0, "")


def _rate(group: dict[str, Any]) -> float:
    """A group's rate before its schedule."""
    return float(group.get("initial_lr", group["lr"]))


def tested(trainer: Any, low: float, high: float, steps: int, of: int = 0) -> Iterator[tuple[float, float]]:
    """Learning rates of a group that rise from `low` to `high`, and the loss of an update with each.

    Args:
        of: the group; the rates of others keep their ratio to its.
    """
    import torch

    from machinery.update.watching import LossWatch
    from tools.tuning.measuring import updates

    trainer.lr_scheduler, trainer._watch = None, LossWatch("ignore")
    groups, losses = trainer.optimizer.param_groups, list[Any]()
    shares = [_rate(group) / (_rate(groups[of]) or 1.0) for group in groups]
    step = trainer._apply_group

    def noted(group: Any, optimizers: Any, again: Any) -> bool:
        losses.append(torch.stack(group.losses).mean())
        return step(group, optimizers, again)

    trainer._apply_group = noted
    rates = [low * (high / low) ** (k / max(steps - 1, 1)) for k in range(steps)]
    steady, best, start = 0.0, math.inf, math.inf
    running, keep = updates(trainer), 1 - 20 / steps
    for k, rate in enumerate(rates):
        for group, share in zip(groups, shares, strict=True):
            group["lr"] = rate * share
        for _ in islice(running, 1):
            pass
        if not losses:
            raise ConfigError(f"{type(trainer).__name__} applies no gradients by group.step: it cannot be tested")
        loss = float(losses[-1])
        steady = keep * steady + (1 - keep) * loss
        smooth = steady / (1 - keep ** (k + 1))
        start = smooth if k == steps // 10 else start
        # As far above the beginning as it has fallen below, and more than noise: it has run away.
        if not math.isfinite(loss) or smooth > start + max(start - best, 0.2 * abs(start)):
            return
        best = min(best, smooth)
        yield rate, smooth


def suggested(points: list[tuple[float, float]]) -> float:
    """Where the loss falls the fastest, before its lowest point.

    Raises:
        ConfigError: it falls nowhere.
    """
    lowest = min(range(len(points)), key=lambda i: points[i][1])
    # Over a twelfth of the rates at once, because single steps are noise, and the first ones have been averaged least.
    wide = max(len(points) // 24, 2)
    slopes = {
        i: points[i + wide][1] - points[i - wide][1] for i in range(3 * wide, min(lowest, len(points) - 1 - wide))
    }
    if not slopes or min(slopes.values()) >= 0:
        raise ConfigError("the loss falls at no rate: try others with --low and --high, or more --steps")
    return points[min(slopes, key=slopes.__getitem__)][0]


def drawn(points: list[tuple[float, float]], rate: float, file: Path) -> None:
    """A picture of the loss against the rate."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    rates, losses = zip(*points, strict=True)
    axes.plot(rates, losses, linewidth=1.6)
    axes.axvline(rate, color="tab:red", linewidth=1)
    axes.annotate(f"{rate:.2g}", (rate, max(losses)), xytext=(4, -10), textcoords="offset points", color="tab:red")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    axes.set_ylim(min(losses) - 0.05 * (losses[0] - min(losses)), max(losses[0], min(losses)) * 1.3)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(description="Let the learning rate rise, and see where the loss falls fastest.")
    parser.add_argument("--low", type=float, default=1e-6, help="the first rate (1e-6)")
    parser.add_argument("--high", type=float, default=10.0, help="the last rate (10)")
    parser.add_argument("--steps", type=int, default=150, help="updates (150)")
    parser.add_argument("--out", type=Path, default=Path("lr_find.png"), help="file of the picture (lr_find.png)")
    sys.argv.append("--check")  # a scratch folder that goes at the end
    config = ConfigParser.from_args(parser, OPTIONS)
    args = config.launch.args
    if not (0 < args.low < args.high < math.inf) or args.steps < 30:
        raise ConfigError("expected 0 < --low < --high, and at least 30 --steps")
    file = picture_file(args.out)
    trainer = build(config)
    config.launch.checking, trainer.save_step, trainer.writers._writers = False, None, []
    with trainer.stop:
        of, key = searched(trainer)
        trainer.restore()
        points = list(tested(trainer, args.low, args.high, args.steps, of))
    if len(points) < 5:
        raise ConfigError(f"the loss runs away at once: try a smaller --low than {args.low:g}")
    rate = suggested(points)
    drawn(points, rate, file)
    print(f"wrote {shown(file.absolute())}")
    print(f"the loss falls fastest at {rate:.2g}, and is lowest at {min(points, key=lambda point: point[1])[0]:.2g}")
    if len(trainer.optimizer.param_groups) > 1:
        print("the other rates were raised with it: keep their ratios")
    value = f"{float(f'{rate:.2g}'):g}"
    print(f"suggested: --set {key}={value}" if key else f"suggested: {value}, by whatever sets the first group's rate")


if __name__ == "__main__":
    main()
