"""What a trained model says: python tools/predict.py -r saved/models/NAME/RUN, or … digit.png for files of pictures

Of a part of the data: a CSV of all predictions, the most wrong as a picture, a confusion matrix, and numbers by class.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from machinery.errors import ConfigError, DataError
from machinery.files import replacing, shown
from machinery.telling import printable, told
from tools.pictures import grid, images_in, pyplot as plt, save
from tools.trained import Trained, classes_of, dataset_of, folder_of, parsed, seen

Rows = list[dict[str, Any]]


def chances_of(scores: torch.Tensor) -> torch.Tensor:
    """How likely each class is by scores [classes], their logarithms, or probabilities already."""
    scores = scores.double()
    done = bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3
    return scores if done else scores.softmax(dim=0)


def row_of(scores: torch.Tensor, names: list[str]) -> dict[str, Any]:
    """The most likely class by scores or log-probabilities [classes], and how likely each is."""
    chances = chances_of(scores)
    best = int(chances.argmax())
    return {"predicted": names[best], "chance": round(float(chances[best]), 6)}


def predicted(trained: Trained) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor]]:
    """Pictures (or None), scores float [classes] and class of each sample.

    Raises:
        ConfigError: the model is no classifier.
    """
    for call, _, output, target in seen(trained):
        fits = isinstance(output, torch.Tensor) and isinstance(target, torch.Tensor) and output.ndim == 2
        if not fits or target.ndim != 1 or target.is_floating_point() or output.shape[1] < 2:
            raise ConfigError("the model is no classifier: its outputs are not scores [n, classes] of classes [n]")
        images = images_in(call)
        pictures = images if images is not None and len(images) == len(target) else [None] * len(target)
        if not bool(output.isfinite().all()):
            raise DataError("the model's scores are not finite: its weights, or these samples, are spoilt")
        yield from zip(pictures, output.float().cpu(), target.cpu(), strict=True)


def evaluated(trained: Trained, folder: Path, n: int) -> Iterator[str]:
    """Write what is said of all samples of a split; lines about it."""
    rows, worst, names, matrix = Rows(), list[tuple[float, Any, str]](), list[str](), np.zeros((0, 0), dtype=int)
    for i, (picture, scores, target) in enumerate(predicted(trained)):
        if not names:
            names = classes_of(trained.loader, len(scores))
            matrix = np.zeros((len(scores), len(scores)), dtype=int)
        truth, best = int(target), int(scores.argmax())
        if truth not in range(len(names)):
            raise DataError(f"sample {i} is of class {truth}, and the model knows {len(names)}")
        of_truth = float(chances_of(scores)[truth])
        rows.append(
            {"sample": i, "target": names[truth], **row_of(scores, names), "chance_of_target": round(of_truth, 6)}
        )
        matrix[truth, best] += 1
        if best != truth:
            worst.append((of_truth, picture, f"{names[truth]}, not {names[best]}"))
    if not rows:
        raise DataError("the loader has no samples")
    yield _write(rows, folder / "predictions.csv")
    if matrix.sum(axis=1).nonzero()[0].max() < len(names) // 2:
        yield f"{len(names)} outputs for classes up to {matrix.sum(axis=1).nonzero()[0].max()}: is it a classifier?"
    yield f"{len(rows) - len(worst):,} of {len(rows):,} are right"
    yield from by_class(matrix, names)
    if len(names) <= 50:
        yield drawn_matrix(matrix, names, folder / "confusion.png")
    worst = sorted((each for each in worst if each[1] is not None), key=lambda each: each[0])[:n]
    if worst:
        grid([[picture for _, picture, _ in worst]], [words for *_, words in worst], folder / "wrong.png", 8)
        yield f"wrote {shown(folder / 'wrong.png')}"


def by_class(matrix: Any, names: list[str]) -> Iterator[str]:
    """A table of precision, recall and F1 (van Rijsbergen 1979), a line for each class."""
    width = max(5, *map(len, names))
    yield f"{'class':<{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'samples':>8}"
    for k, name in enumerate(names):
        right, called, there = matrix[k, k], matrix[:, k].sum(), matrix[k].sum()
        precision, recall = right / called if called else 0.0, right / there if there else 0.0
        f1 = 2 * right / (called + there) if called + there else 0.0
        yield f"{name:<{width}} {precision:>9.4f} {recall:>7.4f} {f1:>7.4f} {there:>8,}"


def drawn_matrix(matrix: Any, names: list[str], file: Path) -> str:
    """A picture of what is called what."""
    size = max(4.0, 0.45 * len(names) + 1.5)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(matrix):
        if n:
            axes.text(
                j, i, f"{n:,}", ha="center", va="center", fontsize=7, color="white" if shares[i, j] > 0.6 else "black"
            )
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 60, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="is")
    save(figure, file)
    return f"wrote {shown(file)}"


def of_files(trained: Trained, files: list[Path], folder: Path) -> Iterator[str]:
    """What is said of pictures in files."""
    call, _, output, _ = next(seen(trained))
    images = images_in(call)
    if images is None or not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise ConfigError("files are for classifiers of pictures: give a --split of the data instead")
    rows, names, trainer = Rows(), classes_of(trained.loader, output.shape[1]), trained.trainer
    inputs = torch.stack([read_picture(file, images.shape[1:], trained.loader) for file in files])
    with torch.no_grad(), trainer.judged(), trainer.runtime.autocast():
        scores = trainer.model(trainer.runtime.move(inputs)).float().cpu()
    for file, each in zip(files, scores, strict=True):
        if not bool(each.isfinite().all()):
            raise DataError(f"{file}: the model's scores are not finite")
        rows.append({"file": str(file), **row_of(each, names)})
        yield f"{file}: {rows[-1]['predicted']} ({rows[-1]['chance']:.3f})"
    yield _write(rows, folder / "predictions.csv")


def read_picture(file: Path, shape: Any, loader: Any) -> torch.Tensor:
    """A picture as the network takes it: by the dataset's `transform`, or in its size and by its `mean` and `std`."""
    from PIL import Image

    dataset = dataset_of(loader)
    if not file.is_file():
        raise DataError(f"{file} is no file")
    try:
        image: Any = Image.open(file)
        image.load()
    except Exception as error:  # whatever the reader of some format does with a damaged file
        raise DataError(f"{file} cannot be read: {error or type(error).__name__}") from None
    if image.mode.startswith("I;16"):  # which would be cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("I", "F"):
        raise DataError(f"{file} has numbers without a known range ({image.mode}): save it with 8 or 16 bits")
    image = image.convert("L" if shape[0] == 1 else "RGB")
    if callable(getattr(dataset, "transform", None)):
        try:
            result: torch.Tensor = dataset.transform(image)
            found: Any = list(result.shape)
        except Exception as error:  # of code that was written for something else
            raise ConfigError(f"the dataset's transform does not take {file}: {told(error, anywhere=False)}") from None
        if found != list(shape):
            raise DataError(
                f"{file}: the dataset's transform makes it {found}, and the model was trained on {list(shape)}"
            )
        return result
    pixels = np.asarray(image.resize((shape[2], shape[1])), dtype=np.float32) / 255
    picture = torch.from_numpy(pixels).reshape(shape[1], shape[2], shape[0]).movedim(-1, 0)
    return (picture - getattr(dataset, "mean", 0.0)) / getattr(dataset, "std", 1.0)


def _write(rows: Rows, file: Path) -> str:
    with replacing(file) as out:
        text = io.TextIOWrapper(out, "utf-8", "replace", newline="")  # names of files are no text, sometimes
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
    return f"wrote {shown(file)}"


def main() -> None:
    """The command line: that of test.py, and files."""
    parser = argparse.ArgumentParser(description="Write what a trained classifier says of data, or of pictures.")
    parser.add_argument("files", nargs="*", type=Path, help="pictures; none: a part of the data")
    parser.add_argument("--n", type=int, default=24, help="of the most wrong, show so many (24)")
    parser.add_argument("--out", type=Path, help="folder (predictions/EPOCH-SPLIT, beside the checkpoint)")
    args, trained = parsed(parser)
    folder = folder_of(trained, f"predictions/{{epoch}}-{'files' if args.files else args.split}", args.out)
    for line in of_files(trained, args.files, folder) if args.files else evaluated(trained, folder, args.n):
        print(printable(line))


if __name__ == "__main__":
    main()
