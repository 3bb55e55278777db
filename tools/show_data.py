"""What a loader really feeds: python tools/show_data.py -c config.json

A picture of samples, as they are trained on and as they are evaluated; counts, ranges, and samples
per second.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

import data_loader.data_loaders as module_data
from base import BaseDataLoader
from base.base_data_loader import one_pass
from machinery.arriving import on_host
from machinery.errors import ConfigError, DataError
from machinery.files import shown
from machinery.order.fetching import SeededFetcher
from machinery.order.passes import OrderedPasses
from machinery.order.split import evaluation_view
from machinery.telling import described, printable
from parse_config import ConfigParser
from tools.feeding.columns import Columns
from tools.feeding.tokens import Tokens
from tools.pictures import (
    grid,
    images_in,
    labels_in,
    named_tensors,
    overlay,
    picture_file,
)
from tools.trained import classes_of, evaluation_loader, split_of, tensors_in
from train import OPTIONS
from utils.images import Labels

#: How many classes are counted, and how many of them are told.
_CLASSES, _TOLD = 1000, 30


class Feed(NamedTuple):
    """A loader, and how it is read: as in training, or as in an evaluation."""

    loader: Any
    seed: int
    training: bool

    def batches(self) -> Iterator[Any]:
        """The batches of the first pass."""
        if self.training:
            return one_pass(self.loader, self.seed, 1, 0, len(self.loader))
        return one_pass(self.loader, self.seed)

    def batches_within(self, seconds: float) -> Iterator[Any]:
        """As many of them as so many seconds allow, but one at least."""
        started = time.perf_counter()
        for batch in self.batches():
            yield batch
            if time.perf_counter() - started > seconds:
                return


def loader_of(config: ConfigParser, split: str) -> Any:
    """The loader of a part of the data."""
    if not config.config.get("data_loader"):
        raise ConfigError("the config has no data_loader")
    if split == "train":
        return config.init_obj("data_loader", module_data)
    batch_size = config.launch.args.bs
    if batch_size:
        for section in config.sections(f"{split.partition('.')[0]}_data_loader"):
            section.setdefault("args", {})["batch_size"] = batch_size
    return evaluation_loader(config, split)


def first_batch(feed: Feed) -> Any:
    """The first batch.

    Raises:
        DataError: there is none.
    """
    for batch in feed.batches():
        return batch
    raise DataError("the loader has no batches")


def without_augmentation(feed: Feed) -> Any:
    """The samples of the first batch of training as evaluation reads them; None if it cannot."""
    loader = feed.loader
    if not feed.training or not isinstance(loader, BaseDataLoader):
        return None
    passes = loader._passes
    if not isinstance(passes, OrderedPasses):
        return None
    passes.order.take(1, 0, 1)
    fed = passes.fetcher
    collate = evaluation_view(fed.collate_fn)
    fetcher = SeededFetcher(loader.evaluation_data(), collate, fed.seed, fed.name)
    (place,) = passes.order
    batch = fetcher[place]
    if isinstance(batch, DataError):
        return None
    return batch


def size(batch: Any) -> int:
    """How many samples a batch holds, by its first tensor."""
    tensors = tensors_in(batch)
    if not tensors or tensors[0].ndim == 0:
        return 0
    return len(tensors[0])


def speed(feed: Feed, seconds: float) -> float:
    """Samples per second of a pass on which nobody looks, for so many seconds at most."""
    samples = 0
    started = time.perf_counter()
    for batch in feed.batches_within(seconds):
        samples += size(batch)
    return samples / (time.perf_counter() - started)


class Stats:
    """Range, mean and spread of a tensor over batches."""

    def __init__(self, first: torch.Tensor) -> None:
        self.what = described(first)
        #: How many values are finite, and how many are not.
        self.n = 0
        self.bad = 0
        self.low = math.inf
        self.high = -math.inf
        #: The mean of the first batch: sums of what is near 0 lose no digits.
        self.about = 0.0
        #: Sums of what the values are apart from it, and of the squares of that.
        self.sum = 0.0
        self.squares = 0.0

    def add(self, tensor: torch.Tensor) -> None:
        """Add a batch."""
        if tensor.is_complex():
            tensor = tensor.abs()
        values = tensor.double()
        values = values[values.isfinite()]
        self.bad += tensor.numel() - values.numel()
        if values.numel() == 0:
            return
        if self.n == 0:
            self.about = float(values.mean())
        self.n += values.numel()
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        apart = values - self.about
        self.sum += float(apart.sum())
        self.squares += float(apart.square().sum())

    def __str__(self) -> str:
        if self.n == 0:
            return f"{self.what}: nothing finite"
        off = self.sum / self.n
        mean = self.about + off
        deviation = max(self.squares / self.n - off * off, 0.0) ** 0.5
        text = f"{self.what}: {self.low:.4g} to {self.high:.4g}"
        text += f", mean {mean:.4g}, deviation {deviation:.4g}"
        if self.bad:
            text += f", {self.bad:,} NaN or infinite"
        return text


class Summary:
    """What the batches of a pass have shown."""

    def __init__(self, loader: Any) -> None:
        self.samples = 0
        self.batches = 0
        self.columns = Columns(loader)
        self.tokens = Tokens(loader)
        #: Of each tensor, by its place in a batch.
        self.stats: dict[str, Stats] = {}
        #: Where the classes are in a batch, and how often each came.
        self.place = ""
        self.classes: Counter[int] = Counter()

    def add(self, batch: Any) -> None:
        """Add a batch."""
        self.batches += 1
        self.samples += size(batch)
        arrived = on_host(batch)
        self.columns.add(arrived)
        self.tokens.add(arrived)
        for place, values in named_tensors(arrived):
            if place not in self.stats:
                self.stats[place] = Stats(values)
            self.stats[place].add(values)
        labels = labels_in(batch)
        if labels is not None:
            self.place = labels.place
            self.classes.update(labels.values.tolist())


def summary_of(feed: Feed, seconds: float) -> Summary:
    """What a pass shows, or so much of it as so many seconds allow."""
    summary = Summary(feed.loader)
    for batch in feed.batches_within(seconds):
        summary.add(batch)
    return summary


def lines(feed: Feed, summary: Summary, rate: float) -> Iterator[str]:
    """Counts and ranges of what was seen.

    Args:
        rate: samples per second.
    """
    name = type(getattr(feed.loader, "dataset", feed.loader)).__name__
    counted = f"{summary.samples:,} samples in {summary.batches:,} batches"
    yield f"{name}: {counted}, {rate:,.0f} a second"
    for place, stats in summary.stats.items():
        yield f"{place:<12} {stats}"
    if 0 < len(summary.classes) <= _CLASSES:
        names = classes_of(feed.loader)
        told = []
        for label, count in sorted(summary.classes.items())[:_TOLD]:
            told.append(f"{class_name(label, names)}: {count:,}")
        if len(summary.classes) > _TOLD:
            told.append("…")
        yield f"classes {summary.place:<4} {', '.join(told)}"
    yield from summary.columns.lines()
    yield from summary.tokens.lines()


def class_name(label: Any, names: list[str]) -> str:
    """A class by its name, or by its number where it has none."""
    if label in range(len(names)):
        return names[label]
    return str(label)


def drawn(batch: Any, plain: Any, most: int, names: list[str], file: Path) -> bool:
    """Draw pictures of a batch; whether there are any. Masks of pixels lie over them in colours.

    Args:
        plain: the same samples without augmentation; None if they are not to be had.
        most: pictures, at most.
        names: of the classes.
        file: where to.
    """
    images = images_in(on_host(batch))
    if images is None:
        return False
    words = _words(batch, len(images), names)[:most]
    rows = _rows(images, images_in(on_host(plain)), len(words))
    masks = masks_in(batch, images)
    if masks is not None:
        pairs = zip(images[: len(words)], masks, strict=False)
        rows.append([overlay(image, mask) for image, mask in pairs])
    grid(rows, words, file)
    return True


def masks_in(batch: Any, images: torch.Tensor) -> torch.Tensor | None:
    """The first tensor of a batch that is a class for each pixel: int64 [n, height, width]."""
    shape = (len(images), *images.shape[2:])
    for tensor in tensors_in(batch):
        channel = tensor.ndim == 4 and tensor.shape[1] == 1
        if channel:
            tensor = tensor[:, 0]
        if tensor.shape != shape or tensor.is_complex():
            continue
        if not tensor.is_floating_point():
            return tensor.long()
        if not channel and bool(((tensor == 0) | (tensor == 1)).all()):
            return tensor.long()
    return None


def _words(batch: Any, count: int, names: list[str]) -> list[str]:
    """The classes of so many pictures; nothing for each where they are not known."""
    if isinstance(batch, list | tuple):
        for item in batch:
            if isinstance(item, Labels):
                return _words_of_shares(on_host([item])[0], names)
    labels = labels_in(batch)
    if labels is None or len(labels.values) != count:
        return [""] * count
    return [class_name(label, names) for label in labels.values.tolist()]


def _words_of_shares(shares: torch.Tensor, names: list[str]) -> list[str]:
    """The classes that mixed pictures show, float [n, classes], each with its share."""
    words = []
    for row in shares.tolist():
        shown_here = [k for k, share in enumerate(row) if share >= 0.005]
        words.append(" ".join(f"{class_name(k, names)} {row[k]:.0%}" for k in shown_here))
    return words


def _rows(images: torch.Tensor, plain: torch.Tensor | None, count: int) -> list[list[torch.Tensor]]:
    """The first pictures; above them, those without augmentation where they are others."""
    rows = [list(images[:count])]
    if plain is None or plain.shape != images.shape or torch.equal(plain, images):
        return rows
    return [list(plain[:count]), *rows]


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(description="Show what a loader feeds.")
    parser.add_argument(
        "--split",
        type=partial(split_of, ("train", "valid", "test")),
        default="train",
        help='part of the data (train): train, valid, test, or one of several sets: "valid.NAME"',
    )
    parser.add_argument(
        "--n", type=int, default=48, help="pictures of the first batch, at most (48)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="read for so long at most (20)")
    parser.add_argument(
        "--out", type=Path, default=Path("data.png"), help="file of the picture (data.png)"
    )
    sys.argv.append("--check")  # which leaves everything as it is
    config = ConfigParser.from_args(parser, OPTIONS)
    args = config.launch.args
    file = picture_file(args.out)
    loader = loader_of(config, args.split)
    feed = Feed(loader, config.settings.seed, args.split == "train")
    batch = first_batch(feed)
    plain = without_augmentation(feed)
    rate = speed(feed, args.seconds / 4)
    summary = summary_of(feed, args.seconds)
    print(printable("\n".join(lines(feed, summary, rate))))
    is_drawn = drawn(batch, plain, max(args.n, 1), classes_of(loader), file)
    for other in (summary.columns, summary.tokens):
        is_drawn = is_drawn or other.draw(file)
    if is_drawn:
        print(f"wrote {shown(file.absolute())}")
    else:
        print("no pictures, no table of numbers and no text: nothing to draw")


if __name__ == "__main__":
    main()
