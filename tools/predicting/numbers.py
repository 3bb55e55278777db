"""Regression: numbers [n] or [n, outputs], and what they should be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from machinery.files import shown
from tools.pictures import pyplot as plt, save
from tools.predicting.kinds import Kind, Part, names_in, rounded

#: Outputs that are drawn.
_DRAWN = 6


class Numbers(Kind):
    """What a regression says of all samples."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.names: list[str] = []
        self.outputs: list[torch.Tensor] = []
        self.targets: list[torch.Tensor] = []

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch."""
        n = len(part.output)
        outputs = part.output.double().reshape(n, -1)
        targets = part.target.double().reshape(n, -1)
        if not self.names:
            self.names = self._named(outputs.shape[1])
        self.outputs.append(outputs)
        self.targets.append(targets)
        rows = []
        for output, target in zip(outputs.tolist(), targets.tolist(), strict=True):
            row = {}
            for name, ours, theirs in zip(self.names, output, target, strict=True):
                end = f"_{name}" if name else ""
                row[f"target{end}"] = rounded(theirs)
                row[f"predicted{end}"] = rounded(ours)
                row[f"residual{end}"] = rounded(ours - theirs)
            rows.append(row)
        return rows

    def _named(self, count: int) -> list[str]:
        """The names of the outputs; one alone needs none."""
        if count == 1:
            return [""]
        known = names_in(self.loader, ("target_names", "targets"), count)
        return known or [str(number) for number in range(count)]

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """How far the outputs are off, and pictures of them against the targets."""
        outputs = torch.cat(self.outputs)
        targets = torch.cat(self.targets)
        yield from table_of(outputs, targets, self.names)
        file = folder / f"{prefix}residuals.png"
        drawn_numbers(outputs, targets, self.names[:_DRAWN], file)
        yield f"wrote {shown(file)}"


def table_of(outputs: torch.Tensor, targets: torch.Tensor, names: list[str]) -> Iterator[str]:
    """A table of errors, a line for each output: mean absolute and squared ones, bias, and R².

    Args:
        outputs, targets: float [n, outputs].
        names: of the outputs.
    """
    width = max(len(name) for name in ("output", *names))
    heads = f"{'mae':>10} {'rmse':>10} {'bias':>10} {'r2':>7} {'samples':>8}"
    yield f"{'output':<{width}} {heads}"
    for number, name in enumerate(names):
        apart = outputs[:, number] - targets[:, number]
        apart = apart[apart.isfinite()]
        target = targets[:, number]
        target = target[target.isfinite()]
        spread = float((target - target.mean()).square().sum())
        r2 = ""
        if spread > 0:
            r2 = f"{1 - float(apart.square().sum()) / spread:.4f}"
        mae = float(apart.abs().mean())
        rmse = float(apart.square().mean().sqrt())
        numbers = f"{mae:>10.4g} {rmse:>10.4g} {float(apart.mean()):>10.3g} {r2:>7}"
        yield f"{name or 'output':<{width}} {numbers} {len(apart):>8,}"


def drawn_numbers(
    outputs: torch.Tensor, targets: torch.Tensor, names: list[str], file: Path
) -> None:
    """Write a picture: above, outputs against targets; below, how far they are off."""
    count = len(names)
    figure, axes = plt.subplots(
        2, count, figsize=(max(3.6 * count, 4.2), 6.4), layout="constrained", squeeze=False
    )
    for number, name in enumerate(names):
        ours = outputs[:, number]
        theirs = targets[:, number]
        fine = ours.isfinite() & theirs.isfinite()
        ours = ours[fine]
        theirs = theirs[fine]
        above, below = axes[:, number]
        above.scatter(theirs.tolist(), ours.tolist(), s=8, alpha=0.5, linewidths=0)
        ends = [float(theirs.min()), float(theirs.max())]
        above.plot(ends, ends, color="black", linewidth=0.8)
        above.set(xlabel="target", ylabel="predicted", title=name)
        below.hist((ours - theirs).tolist(), bins=40)
        below.axvline(0, color="black", linewidth=0.8)
        below.set(xlabel="predicted - target", ylabel="samples")
    save(figure, file)
