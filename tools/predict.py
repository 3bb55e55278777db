"""What a trained model says: python tools/predict.py -r saved/models/NAME/RUN

Of a part of the data: a CSV of all predictions, the most wrong as a picture, a confusion matrix,
and numbers by class. With … digit.png at the end: of pictures in files.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from machinery.errors import ConfigError, DataError
from machinery.files import replacing, shown
from machinery.telling import printable, told
from machinery.update.networks import without_gradients
from tools.pictures import grid, images_in, pyplot as plt, save
from tools.trained import Seen, Trained, classes_of, dataset_of, folder_of, parsed, seen

Rows = list[dict[str, Any]]
#: Classes that fit a picture of what is called what, at most.
_DRAWN = 50


class Sample(NamedTuple):
    """A sample, and what the model says of it."""

    #: None where samples are no pictures.
    picture: Any
    #: Float [classes].
    scores: torch.Tensor
    #: The number of its class.
    truth: int


class Mistake(NamedTuple):
    """A sample that the model takes for something else."""

    picture: Any
    #: How likely its own class is, as the model sees it.
    chance: float
    #: What it is, and what it is taken for.
    words: str


def chances_of(scores: torch.Tensor) -> torch.Tensor:
    """How likely each class is by scores [classes], their logarithms, or probabilities already."""
    scores = scores.double()
    if bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3:
        return scores
    return scores.softmax(dim=0)


def row_of(scores: torch.Tensor, names: list[str]) -> dict[str, Any]:
    """The most likely class by scores or log-probabilities [classes], and how likely it is."""
    chances = chances_of(scores)
    best = int(chances.argmax())
    return {"predicted": names[best], "chance": round(float(chances[best]), 6)}


def predicted(trained: Trained) -> Iterator[Sample]:
    """What the model says of each sample.

    Raises:
        ConfigError: the model is no classifier.
        DataError: its scores are not finite.
    """
    for each in seen(trained):
        if not _is_classified(each):
            found = "its outputs are not scores [n, classes] of classes [n]"
            raise ConfigError(f"the model is no classifier: {found}")
        if not bool(each.output.isfinite().all()):
            spoilt = "its weights, or these samples, are spoilt"
            raise DataError(f"the model's scores are not finite: {spoilt}")
        truths = each.target.long().tolist()
        pictures: Any = images_in(each.call)
        if pictures is None or len(pictures) != len(truths):
            pictures = [None] * len(truths)
        for row in zip(pictures, each.output.float().cpu(), truths, strict=True):
            yield Sample(*row)


def _is_classified(each: Seen) -> bool:
    """Whether the output is scores [n, classes] and the target is classes [n]."""
    scores = each.output
    classes = each.target
    if not isinstance(scores, torch.Tensor) or not isinstance(classes, torch.Tensor):
        return False
    if scores.ndim != 2 or scores.shape[1] < 2:
        return False
    return classes.ndim == 1 and not classes.is_floating_point()


class Predictions:
    """What the model says of all samples.

    Args:
        names: of the classes.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.rows: Rows = []
        self.mistakes: list[Mistake] = []
        #: How many samples there are, by their class and what they are taken for.
        self.matrix: Any = np.zeros((len(names), len(names)), dtype=int)
        #: The highest class that there is.
        self.highest = 0

    def add(self, sample: Sample) -> None:
        """Add a sample.

        Raises:
            DataError: it is of a class that the model does not know.
        """
        number = len(self.rows)
        truth = sample.truth
        if truth not in range(len(self.names)):
            known = f"the model knows {len(self.names)}"
            raise DataError(f"sample {number} is of class {truth}, and {known}")
        best = int(sample.scores.argmax())
        chance = float(chances_of(sample.scores)[truth])
        row = {"sample": number, "target": self.names[truth], **row_of(sample.scores, self.names)}
        self.rows.append({**row, "chance_of_target": round(chance, 6)})
        self.matrix[truth, best] += 1
        self.highest = max(self.highest, truth)
        if best != truth:
            words = f"{self.names[truth]}, not {self.names[best]}"
            self.mistakes.append(Mistake(sample.picture, chance, words))

    def worst(self, count: int) -> list[Mistake]:
        """The worst mistakes that can be shown, at most so many."""
        shown_as_picture = [each for each in self.mistakes if each.picture is not None]
        return sorted(shown_as_picture, key=_chance)[:count]


def _chance(mistake: Mistake) -> float:
    return mistake.chance


def predictions_of(trained: Trained) -> Predictions:
    """What the model says of all samples of a split.

    Raises:
        DataError: there are none.
    """
    predictions = None
    for sample in predicted(trained):
        if predictions is None:
            predictions = Predictions(classes_of(trained.loader, len(sample.scores)))
        predictions.add(sample)
    if predictions is None:
        raise DataError("the loader has no samples")
    return predictions


def evaluated(trained: Trained, folder: Path, n: int) -> Iterator[str]:
    """Write what is said of all samples of a split; lines about it.

    Args:
        n: of the most wrong, show so many.
    """
    predictions = predictions_of(trained)
    names = predictions.names
    count = len(predictions.rows)
    yield _write(predictions.rows, folder / "predictions.csv")
    if predictions.highest < len(names) // 2:
        outputs = f"{len(names)} outputs for classes up to {predictions.highest}"
        yield f"{outputs}: is it a classifier?"
    yield f"{count - len(predictions.mistakes):,} of {count:,} are right"
    yield from by_class(predictions.matrix, names)
    if len(names) <= _DRAWN:
        yield drawn_matrix(predictions.matrix, names, folder / "confusion.png")
    worst = predictions.worst(n)
    if worst:
        file = folder / "wrong.png"
        pictures = [mistake.picture for mistake in worst]
        grid([pictures], [mistake.words for mistake in worst], file, columns=8)
        yield f"wrote {shown(file)}"


def by_class(matrix: Any, names: list[str]) -> Iterator[str]:
    """A table of precision, recall and F1 (van Rijsbergen 1979), a line for each class."""
    width = max(len(name) for name in ("class", *names))
    yield f"{'class':<{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'samples':>8}"
    for k, name in enumerate(names):
        right = int(matrix[k, k])
        called = int(matrix[:, k].sum())
        there = int(matrix[k].sum())
        precision = _share(right, called)
        recall = _share(right, there)
        f1 = _share(2 * right, called + there)
        yield f"{name:<{width}} {precision:>9.4f} {recall:>7.4f} {f1:>7.4f} {there:>8,}"


def _share(part: int, whole: int) -> float:
    if whole == 0:
        return 0.0
    return part / whole


def drawn_matrix(matrix: Any, names: list[str], file: Path) -> str:
    """A picture of what is called what."""
    size = max(4.0, 0.45 * len(names) + 1.5)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(matrix):
        if n == 0:
            continue
        color = "white" if shares[i, j] > 0.6 else "black"
        axes.text(j, i, f"{n:,}", ha="center", va="center", fontsize=7, color=color)
    longest = max(len(name) for name in names)
    rotation = 0 if longest < 4 else 60
    axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="is")
    save(figure, file)
    return f"wrote {shown(file)}"


def of_files(trained: Trained, files: list[Path], folder: Path) -> Iterator[str]:
    """Write what is said of pictures in files; lines about it."""
    first = next(seen(trained))
    images = images_in(first.call)
    scores = first.output
    if images is None or not isinstance(scores, torch.Tensor) or scores.ndim != 2:
        hint = "give a --split of the data instead"
        raise ConfigError(f"files are for classifiers of pictures: {hint}")
    names = classes_of(trained.loader, scores.shape[1])
    shape = list(images.shape[1:])
    inputs = torch.stack([read_picture(file, shape, trained.loader) for file in files])
    rows = []
    for file, each in zip(files, _scores_of(trained.trainer, inputs), strict=True):
        if not bool(each.isfinite().all()):
            raise DataError(f"{file}: the model's scores are not finite")
        row = row_of(each, names)
        rows.append({"file": str(file), **row})
        yield f"{file}: {row['predicted']} ({row['chance']:.3f})"
    yield _write(rows, folder / "predictions.csv")


def _scores_of(trainer: Any, inputs: torch.Tensor) -> torch.Tensor:
    """What the network says of pictures [n, channels, height, width]: float [n, classes]."""
    with trainer.judged(), without_gradients(trainer.model), trainer.runtime.autocast():
        scores: torch.Tensor = trainer.model(trainer.runtime.move(inputs))
        return scores.detach().float().cpu()


def read_picture(file: Path, shape: list[int], loader: Any) -> torch.Tensor:
    """A picture as the network takes it.

    By the dataset's `transform`, or in its size and by its `mean` and `std`.

    Args:
        shape: channels, height and width.
    """
    dataset = dataset_of(loader)
    channels, height, width = shape
    image = _opened(file).convert("L" if channels == 1 else "RGB")
    transform = getattr(dataset, "transform", None)
    if callable(transform):
        return _transformed(transform, image, file, shape)
    pixels = np.asarray(image.resize((width, height)), dtype=np.float32) / 255
    picture = torch.from_numpy(pixels).reshape(height, width, channels).movedim(-1, 0)
    return (picture - getattr(dataset, "mean", 0.0)) / getattr(dataset, "std", 1.0)


def _opened(file: Path) -> Any:
    """A picture of 8 bits, whatever its file has."""
    from PIL import Image

    if not file.is_file():
        raise DataError(f"{file} is no file")
    try:
        image: Any = Image.open(file)
        image.load()
    except Exception as error:  # whatever the reader of some format does with a damaged file
        what = str(error) or type(error).__name__
        raise DataError(f"{file} cannot be read: {what}") from None
    if image.mode in ("I", "F"):
        unknown = f"numbers without a known range ({image.mode})"
        raise DataError(f"{file} has {unknown}: save it with 8 or 16 bits")
    if image.mode.startswith("I;16"):  # which would be cut off at 255
        numbers = np.asarray(image).astype(np.float32) / 257
        image = Image.fromarray(numbers.round().astype(np.uint8))
    return image


def _transformed(transform: Any, image: Any, file: Path, shape: list[int]) -> torch.Tensor:
    """A picture by the dataset's own transform."""
    try:
        result: torch.Tensor = transform(image)
        found = list(result.shape)
    except Exception as error:  # of code that was written for something else
        why = told(error, anywhere=False)
        raise ConfigError(f"the dataset's transform does not take {file}: {why}") from None
    if found != shape:
        trained_on = f"the model was trained on {shape}"
        raise DataError(f"{file}: the dataset's transform makes it {found}, and {trained_on}")
    return result


def _write(rows: Rows, file: Path) -> str:
    with replacing(file) as out:
        # Names of files are no text, sometimes.
        text = io.TextIOWrapper(out, "utf-8", "replace", newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
    return f"wrote {shown(file)}"


def main() -> None:
    """The command line: that of test.py, and files."""
    parser = argparse.ArgumentParser(
        description="Write what a trained classifier says of data, or of pictures."
    )
    parser.add_argument("files", nargs="*", type=Path, help="pictures; none: a part of the data")
    parser.add_argument("--n", type=int, default=24, help="of the most wrong, show so many (24)")
    parser.add_argument(
        "--out", type=Path, help="folder (predictions/EPOCH-SPLIT, beside the checkpoint)"
    )
    args, trained = parsed(parser)
    what = "files" if args.files else args.split
    folder = folder_of(trained, f"predictions/{trained.epoch}-{what}", args.out)
    if args.files:
        lines = of_files(trained, args.files, folder)
    else:
        lines = evaluated(trained, folder, args.n)
    for line in lines:
        print(printable(line))


if __name__ == "__main__":
    main()
