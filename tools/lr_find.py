"""Which learning rate to begin with: python tools/lr_find.py -c config.json

The rate rises from update to update until the loss runs away; a picture shows the loss against it.
Nothing is kept. Source: Smith 2017, "Cyclical learning rates for training neural networks",
arXiv:1506.01186.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from machinery import distributed
from machinery.errors import ConfigError
from machinery.files import shown
from machinery.update.watching import LossWatch
from parse_config import ConfigParser
from tools.pictures import picture_file, pyplot as plt, save
from tools.tuning.measuring import updates
from train import OPTIONS, build


class Searched(NamedTuple):
    """Whose rate is searched."""

    #: The number of the group of parameters.
    group: int
    #: The key of the config that sets its rate; "" if none does.
    key: str


class Point(NamedTuple):
    """A learning rate, and the smoothed loss of the update with it."""

    rate: float
    loss: float


def searched(trainer: Any) -> Searched:
    """The group of parameters whose rate is searched."""
    config = trainer.config
    schedule = config.config.get("lr_scheduler") or {}
    if "max_lr" in schedule.get("args", {}):
        return Searched(0, "lr_scheduler.args.max_lr")
    default = trainer.optimizer.defaults.get("lr")
    rate = config["optimizer"].get("args", {}).get("lr", default)
    for number, group in enumerate(trainer.optimizer.param_groups):
        if _rate(group) == rate:
            return Searched(number, "optimizer.args.lr")
    return Searched(0, "")


def _rate(group: dict[str, Any]) -> float:
    """A group's rate before its schedule."""
    return float(group.get("initial_lr", group["lr"]))


class Smoothed:
    """The loss, averaged over the last updates.

    Args:
        steps: how many updates there are to be.
    """

    def __init__(self, steps: int) -> None:
        self._keep = 1 - 20 / steps
        self._begins_after = steps // 10
        self._sum = 0.0
        self._updates = 0
        #: The average.
        self.value = math.nan
        #: What it begins with, once there are enough updates, and the lowest so far.
        self._beginning: float | None = None
        self._lowest = math.inf

    def add(self, loss: float) -> None:
        """Add the loss of an update."""
        self._sum = self._keep * self._sum + (1 - self._keep) * loss
        self._updates += 1
        self.value = self._sum / (1 - self._keep**self._updates)
        self._lowest = min(self._lowest, self.value)
        if self._updates == self._begins_after + 1:
            self._beginning = self.value

    def has_run_away(self) -> bool:
        """Whether it is as far above its beginning as it has been below, and more than noise."""
        if self._beginning is None:
            return False
        fallen = self._beginning - self._lowest
        noise = 0.2 * abs(self._beginning)
        return self.value > self._beginning + max(fallen, noise)


def tested(trainer: Any, low: float, high: float, steps: int, of: int = 0) -> Iterator[Point]:
    """Learning rates of a group that rise from `low` to `high`, until the loss runs away.

    Args:
        of: the group; the rates of others keep their ratio to its.

    Raises:
        ConfigError: the trainer applies no gradients by group.step.
    """
    trainer.lr_scheduler = None
    trainer._watch = LossWatch("ignore")
    groups = trainer.optimizer.param_groups
    of_group = _rate(groups[of]) or 1.0
    ratios = [_rate(group) / of_group for group in groups]
    losses = _noted_losses(trainer)
    smoothed = Smoothed(steps)
    running = updates(trainer)
    for k in range(steps):
        rate = low * (high / low) ** (k / (steps - 1))
        for group, ratio in zip(groups, ratios, strict=True):
            group["lr"] = rate * ratio
        next(running)
        if not losses:
            name = type(trainer).__name__
            raise ConfigError(f"{name} applies no gradients by group.step: it cannot be tested")
        shares = distributed.gathered(float(losses[-1]))  # all have to end with the same update
        loss = sum(shares) / len(shares)
        smoothed.add(loss)
        if not math.isfinite(loss) or smoothed.has_run_away():
            return
        yield Point(rate, smoothed.value)


def _noted_losses(trainer: Any) -> list[torch.Tensor]:
    """The loss of each update, which the trainer adds as it goes."""
    losses: list[torch.Tensor] = []
    step = trainer._apply_group

    def noted(group: Any, optimizers: Any, again: Any) -> bool:
        losses.append(torch.stack(group.losses).mean())
        return step(group, optimizers, again)

    trainer._apply_group = noted
    return losses


def suggested(points: list[Point]) -> float:
    """The rate at which the loss falls the fastest, before its lowest point.

    Raises:
        ConfigError: it falls nowhere.
    """
    losses = [point.loss for point in points]
    lowest = losses.index(min(losses))
    # Over a twelfth of the rates at once, because single steps are noise; the first ones have been
    # averaged least.
    wide = max(len(points) // 24, 2)
    steepest = 0.0
    found = None
    for k in range(3 * wide, min(lowest, len(points) - 1 - wide)):
        slope = losses[k + wide] - losses[k - wide]
        if slope < steepest:
            steepest = slope
            found = points[k].rate
    if found is None:
        hint = "try others with --low and --high, or more --steps"
        raise ConfigError(f"the loss falls at no rate: {hint}")
    return found


def drawn(points: list[Point], rate: float, file: Path) -> None:
    """A picture of the loss against the rate."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    losses = [point.loss for point in points]
    lowest = min(losses)
    axes.plot([point.rate for point in points], losses, linewidth=1.6)
    axes.axvline(rate, color="tab:red", linewidth=1)
    axes.annotate(
        f"{rate:.2g}",
        (rate, max(losses)),
        xytext=(4, -10),
        textcoords="offset points",
        color="tab:red",
    )
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    axes.set_ylim(lowest - 0.05 * (losses[0] - lowest), max(losses[0], lowest) * 1.3)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, file)


def findings(points: list[Point], rate: float, key: str, several: bool) -> Iterator[str]:
    """What is told at the end.

    Args:
        rate: that is suggested.
        key: of the config, which sets it; "" if none does.
        several: whether there are other groups of parameters.
    """
    lowest = min(points, key=_loss)
    yield f"the loss falls fastest at {rate:.2g}, and is lowest at {lowest.rate:.2g}"
    if several:
        yield "the other rates were raised with it: keep their ratios"
    digits = 1 - math.floor(math.log10(rate))
    value = f"{round(rate, digits):g}"  # two that count
    if key:
        yield f"suggested: --set {key}={value}"
    else:
        yield f"suggested: {value}, by whatever sets the first group's rate"


def _loss(point: Point) -> float:
    return point.loss


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(
        description="Let the learning rate rise, and see where the loss falls fastest."
    )
    parser.add_argument("--low", type=float, default=1e-6, help="the first rate (1e-6)")
    parser.add_argument("--high", type=float, default=10.0, help="the last rate (10)")
    parser.add_argument("--steps", type=int, default=150, help="updates (150)")
    parser.add_argument(
        "--out", type=Path, default=Path("lr_find.png"), help="file of the picture (lr_find.png)"
    )
    sys.argv.append("--check")  # a scratch folder that goes at the end
    config = ConfigParser.from_args(parser, OPTIONS)
    args = config.launch.args
    if not (0 < args.low < args.high < math.inf) or args.steps < 30:
        raise ConfigError("expected 0 < --low < --high, and at least 30 --steps")
    file = picture_file(args.out)
    trainer: Any = build(config)
    config.launch.checking = False
    trainer.save_step = None
    trainer.writers._writers = []
    with trainer.stop:
        group, key = searched(trainer)
        trainer.restore()
        trainer._connect()
        points = list(tested(trainer, args.low, args.high, args.steps, group))
    if len(points) < 5:
        raise ConfigError(f"the loss runs away at once: try a smaller --low than {args.low:g}")
    rate = suggested(points)
    if not distributed.is_main():
        return
    drawn(points, rate, file)
    print(f"wrote {shown(file.absolute())}")
    several = len(trainer.optimizer.param_groups) > 1
    print("\n".join(findings(points, rate, key, several)))


if __name__ == "__main__":
    main()
