"""Several labels at once, each true or false: scores [n, labels], or [n] of one alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from machinery.files import shown
from tools.pictures import grid
from tools.predicting.classes import scored
from tools.predicting.kinds import Kind, Part, Worst, rounded
from tools.trained import classes_of

#: Letters below a picture.
_WORDS = 28


class Chances:
    """Makes chances of scores; by the first batch, these are chances already, or not."""

    def __init__(self) -> None:
        self.are_chances: bool | None = None

    def of(self, scores: torch.Tensor) -> torch.Tensor:
        """How likely labels are, float64."""
        scores = scores.double()
        if self.are_chances is None:
            self.are_chances = bool(((scores >= 0) & (scores <= 1)).all())
        if self.are_chances:
            return scores
        return scores.sigmoid()


class Labels(Kind):
    """What is said of all samples; a label is said where it is likelier than not."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.names: list[str] = []
        self.chances = Chances()
        self.said: list[torch.Tensor] = []
        self.there: list[torch.Tensor] = []
        self.worst = Worst()

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch."""
        n = len(part.output)
        chances = self.chances.of(part.output).reshape(n, -1)
        there = part.target.bool().reshape(n, -1)
        if not self.names:
            self.names = self._named(chances.shape[1])
        said = chances > 0.5
        self.said.append(said)
        self.there.append(there)
        rows = []
        for place in range(n):
            target = self._words(there[place])
            predicted = self._words(said[place])
            row: dict[str, Any] = {"target": target, "predicted": predicted}
            for name, chance in zip(self.names, chances[place].tolist(), strict=True):
                row[f"chance_of_{name}"] = rounded(chance)
            rows.append(row)
            wrong = (chances[place] - there[place].double()).abs().max()
            if target != predicted and part.pictures is not None:
                words = f"{target or '-'}, not {predicted or '-'}"[:_WORDS]
                what = (part.pictures[place].clone(), words)
                self.worst.add(float(wrong), part.first + place, what)
        return rows

    def _named(self, count: int) -> list[str]:
        """The names of the labels; of one alone, the second class's."""
        if count == 1:
            names = classes_of(self.loader)
            if len(names) == 2:
                return names[1:]
            return ["1"]
        return classes_of(self.loader, count)

    def _words(self, labels: torch.Tensor) -> str:
        """The labels that are there."""
        pairs = zip(self.names, labels.tolist(), strict=True)
        return ";".join(name for name, is_there in pairs if is_there)

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """How many are right in all labels, numbers by label, the most wrong."""
        said = torch.cat(self.said)
        there = torch.cat(self.there)
        exact = int((said == there).all(dim=1).sum())
        yield f"{exact:,} of {len(said):,} are right in all labels"
        width = max(len(name) for name in ("label", *self.names))
        yield f"{'label':<{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'samples':>8}"
        for number, name in enumerate(self.names):
            right = int((said & there)[:, number].sum())
            called = int(said[:, number].sum())
            yield f"{name:<{width}} {scored(right, called, int(there[:, number].sum()))}"
        worst = self.worst.first(n)
        if worst:
            file = folder / f"{prefix}wrong.png"
            grid([[picture for picture, _ in worst]], [words for _, words in worst], file, 6)
            yield f"wrote {shown(file)}"
