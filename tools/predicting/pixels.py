"""Pictures from pictures, as those of an autoencoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from machinery.files import shown
from tools.pictures import grid
from tools.predicting.kinds import Kind, Part, Worst, rounded


class Pixels(Kind):
    """How far all pictures are off."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.errors: list[float] = []
        self.worst = Worst(48)

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch."""
        apart = (part.output.double() - part.target.double()).flatten(1)
        squares = apart.square().mean(dim=1).tolist()
        absolute = apart.abs().mean(dim=1).tolist()
        self.errors += squares
        for place, error in enumerate(squares):
            number = part.first + place
            what = (
                part.target[place].clone(),
                part.output[place].clone(),
                f"{number}: {error:.3g}",
            )
            self.worst.add(error, number, what)
        pairs = zip(squares, absolute, strict=True)
        return [{"mse": rounded(mse), "mae": rounded(mae)} for mse, mae in pairs]

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """The mean error, and the most wrong as pictures."""
        errors = torch.tensor(self.errors, dtype=torch.float64)
        middle = float(errors.median())
        numbers = f"mean {float(errors.mean()):.4g}, median {middle:.4g}, worst {errors.max():.4g}"
        yield f"squared error of {len(errors):,} pictures: {numbers}"
        worst = self.worst.first(n)
        if worst[0][0].shape[0] in (1, 3):
            targets, said, words = (list(each) for each in zip(*worst, strict=True))
            file = folder / f"{prefix}wrong.png"
            grid([targets, said], words, file, columns=8)
            yield f"wrote {shown(file)}: the most wrong; above the targets, below the predictions"
