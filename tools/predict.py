"""What a trained model says: python tools/predict.py -r saved/models/NAME/RUN

Of a part of the data: a CSV of all predictions, numbers by class, label or output, and pictures:
what is called what, residuals, masks, the most wrong. With … digit.png at the end: of pictures in
files.
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
from machinery.update.networks import without_gradients
from tools.pictures import images_in
from tools.predicting.classes import Classes, row_of
from tools.predicting.heads import Head, heads_of, kind_of, predictions_of, report
from tools.predicting.kinds import Kind, Part
from tools.predicting.labels import Labels
from tools.predicting.numbers import Numbers
from tools.trained import Trained, dataset_of, folder_of, parsed, seen

Rows = list[dict[str, Any]]


def evaluated(trained: Trained, folder: Path, n: int) -> Iterator[str]:
    """Write what is said of all samples of a split; lines about it.

    Args:
        n: of the most wrong, show so many.
    """
    rows, kinds = predictions_of(trained)
    yield _write(rows, folder / "predictions.csv")
    yield from report(kinds, folder, n)


def of_files(trained: Trained, files: list[Path], folder: Path) -> Iterator[str]:
    """Write what is said of pictures in files; lines about it."""
    first = next(seen(trained))
    images = images_in(first.call)
    heads = heads_of(first)
    if images is None or not heads:
        hint = "give a --split of the data instead"
        raise ConfigError(f"files are for models of pictures: {hint}")
    head = heads[0]
    make = kind_of(head.output, head.target)
    if make not in (Classes, Labels, Numbers):
        hint = "give a --split of the data instead"
        raise ConfigError(f"files are for classes, labels and numbers of pictures: {hint}")
    shape = list(images.shape[1:])
    inputs = torch.stack([read_picture(file, shape, trained.loader) for file in files])
    rows = []
    outputs = _outputs_of(trained.trainer, inputs, head)
    kind = make(trained.loader)
    kind.add(Part(0, head.output, head.target, None))  # which tells scores from chances
    for file, each in zip(files, outputs, strict=True):
        if not bool(each.isfinite().all()):
            raise DataError(f"{file}: the model's outputs are not finite")
        row = _row_of_file(kind, each)
        rows.append({"file": str(file), **row})
        yield f"{file}: {_told(row)}"
    yield _write(rows, folder / "predictions.csv")


def _row_of_file(kind: Kind, output: torch.Tensor) -> dict[str, Any]:
    """What is said of a picture whose truth nobody knows."""
    if isinstance(kind, Classes):
        return row_of(output, kind.names)
    nothing = torch.zeros(1, output.numel())
    (row,) = kind.add(Part(0, output.reshape(1, -1), nothing, None))
    unknown = ("target", "residual")
    return {name: value for name, value in row.items() if not name.startswith(unknown)}


def _told(row: dict[str, Any]) -> str:
    """What is said of a picture, in a line."""
    if "chance" in row:
        return f"{row['predicted']} ({row['chance']:.3f})"
    values = [value for name, value in row.items() if name.startswith("predicted")]
    return ", ".join(str(value) for value in values)


def _outputs_of(trainer: Any, inputs: torch.Tensor, head: Head) -> torch.Tensor:
    """What the head of a network says of pictures [n, channels, height, width]: float [n, …]."""
    with trainer.judged(), without_gradients(trainer.model), trainer.runtime.autocast():
        output = trainer.model(trainer.runtime.move(inputs))
    if isinstance(output, dict):
        output = output[head.name]
    elif not isinstance(output, torch.Tensor):
        output = output[0]
    found: torch.Tensor = output.detach().float().cpu()
    return found


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
        columns: dict[str, None] = {}
        for row in rows:
            columns.update(dict.fromkeys(row))
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text.detach()
    return f"wrote {shown(file)}"


def main() -> None:
    """The command line: that of test.py, and files."""
    parser = argparse.ArgumentParser(
        description="Write what a trained model says of data, or of pictures."
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
