"""What a loader really feeds: python tools/show_data.py -c config.json

A picture of samples, as they are trained on and as they are evaluated; counts, ranges, and samples per second.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

import data_loader.data_loaders as module_data
import test
from base import BaseDataLoader
from base.base_data_loader import one_pass
from machinery.errors import ConfigError, DataError
from machinery.files import shown
from machinery.order.batches import SeededFetcher
from machinery.order.passes import OrderedPasses
from machinery.order.split import evaluation_view
from machinery.telling import described, printable
from parse_config import ConfigParser
from tools.pictures import grid, images_in, labels_in, picture_file, pyplot as plt, save
from tools.trained import classes_of
from train import OPTIONS


def loader_of(config: ConfigParser, split: str) -> Any:
    """The loader of a part of the data."""
    if not config.config.get("data_loader"):
        raise ConfigError("the config has no data_loader")
    if split == "train":
        return config.init_obj("data_loader", module_data)
    own = config.config.get(f"{split}_data_loader")
    if own and getattr(config.launch.args, "bs", None):
        own.setdefault("args", {})["batch_size"] = config.launch.args.bs
    return (test.test_loader if split == "test" else test.valid_loader)(config, module_data)


def both_ways(loader: Any, seed: int, training: bool) -> tuple[Any, Any]:
    """The first batch of a loader, and the same samples without augmentation, if they are to be had."""
    batch = next(iter(one_pass(loader, seed, int(training))), None)
    if batch is None:
        raise DataError("the loader has no batches")
    passes = loader._passes if isinstance(loader, BaseDataLoader) else None
    if not (training and isinstance(passes, OrderedPasses)):
        return batch, None
    passes.order.take(1, 0, 1)
    fetcher = passes.fetcher
    view = evaluation_view(loader.dataset)
    plain = SeededFetcher(view, fetcher.collate_fn, fetcher.seed, fetcher.name)[next(iter(passes.order))]
    return batch, None if isinstance(plain, DataError) else plain


def lines(loader: Any, seed: int, training: bool, seconds: float) -> Iterator[str]:
    """Counts and ranges of a pass, or of so much of it as so many seconds allow."""
    counts: Counter[int] = Counter()
    stats: dict[str, Stats] = {}
    rate, samples, batches, started = speed(loader, seed, training, seconds / 4), 0, 0, time.perf_counter()
    for batch in one_pass(loader, seed, int(training), 0, len(loader) if training else None):
        batches += 1
        for path, tensor in tree_flatten_with_path(batch)[0]:
            if isinstance(tensor, torch.Tensor):
                name = "".join(map(str, path)) or "batch"
                stats.setdefault(name, Stats(tensor)).add(tensor)
        samples += size(batch)
        labels = labels_in(batch)
        counts.update(labels[1].tolist() if labels is not None else ())
        if time.perf_counter() - started > seconds:
            break
    name = type(getattr(loader, "dataset", loader)).__name__
    yield f"{name}: {samples:,} samples in {batches:,} batches, {rate:,.0f} a second"
    for name, each in stats.items():
        yield f"{name:<12} {each}"
    if 0 < len(counts) <= 1000:
        names = classes_of(loader)
        told = [
            f"{names[label] if label in range(len(names)) else label}: {n:,}" for label, n in sorted(counts.items())
        ]
        yield f"classes {labels[0] if labels else '':<4} {', '.join(told[:30])}{', …' if told[30:] else ''}"


def size(batch: Any) -> int:
    """How many samples a batch holds, by its first tensor."""
    first = next((each for each in tree_leaves(batch) if isinstance(each, torch.Tensor)), None)
    return len(first) if first is not None and first.ndim else 0


def speed(loader: Any, seed: int, training: bool, seconds: float) -> float:
    """Samples per second of a pass on which nobody looks, or of so much of it as so many seconds allow."""
    samples, started = 0, time.perf_counter()
    for batch in one_pass(loader, seed, int(training), 0, len(loader) if training else None):
        samples += size(batch)
        if time.perf_counter() - started > seconds:
            break
    return samples / (time.perf_counter() - started)


class Stats:
    """Range, mean and spread of a tensor over batches."""

    def __init__(self, first: torch.Tensor) -> None:
        self.what, self.n, self.bad, self.about = described(first), 0, 0, 0.0
        self.low, self.high, self.sum, self.squares = float("inf"), float("-inf"), 0.0, 0.0

    def add(self, tensor: torch.Tensor) -> None:
        """Add a batch."""
        values = tensor.double()[torch.isfinite(tensor)] if not tensor.is_complex() else tensor.abs().double()
        self.bad += tensor.numel() - values.numel()
        if values.numel():
            self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
            self.about = self.about if self.n else float(values.mean())  # sums of what is near 0 lose no digits
            self.n, values = self.n + values.numel(), values - self.about
            self.sum, self.squares = self.sum + float(values.sum()), self.squares + float(values.square().sum())

    def __str__(self) -> str:
        if not self.n:
            return f"{self.what}: nothing finite"
        off = self.sum / self.n
        mean, spread = self.about + off, max(self.squares / self.n - off * off, 0.0) ** 0.5
        bad = f", {self.bad:,} NaN or infinite" if self.bad else ""
        return f"{self.what}: {self.low:.4g} to {self.high:.4g}, mean {mean:.4g}, deviation {spread:.4g}{bad}"


def drawn(batch: Any, plain: Any, n: int, classes: Any, file: Path) -> bool:
    """Pictures of a batch, or histograms of its columns; whether there is anything to draw."""
    images, (_, labels) = images_in(batch), labels_in(batch) or ("", None)
    if images is not None:
        n = min(n, len(images))
        rows = [list(images[:n])]
        under = images_in(plain)
        if under is not None and under.shape == images.shape and not torch.equal(under, images):
            rows.insert(0, list(under[:n]))
        values = labels.tolist() if labels is not None and len(labels) == len(images) else [""] * n
        words = [str(classes[v]) if classes and v in range(len(classes)) else str(v) for v in values[:n]]
        grid(rows, words, file)
        return True
    tensors = [each for each in tree_leaves(batch) if isinstance(each, torch.Tensor)]
    table = next(
        (each for each in tensors if each.ndim == 2 and each.is_floating_point() and 0 < each.shape[1] <= 32), None
    )
    if table is None:
        return False
    columns = min(table.shape[1], 6)
    size = (2.2 * columns, 1.9 * -(-table.shape[1] // columns))
    figure, axes = plt.subplots(
        -(-table.shape[1] // columns), columns, figsize=size, layout="constrained", squeeze=False
    )
    for k, axis in enumerate(axes.flat):
        if k < table.shape[1]:
            column = table[:, k][table[:, k].isfinite()].double()
            if len(column) and float(column.max() - column.min()) < 1e30:  # more has no bins
                axis.hist(column.tolist(), bins=20)
            axis.set_title(f"column {k}", fontsize=8)
        axis.tick_params(labelsize=6)
        axis.set_visible(k < table.shape[1])
    save(figure, file)
    return True


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(description="Show what a loader feeds.")
    parser.add_argument("--split", choices=["train", "valid", "test"], default="train", help="part of the data (train)")
    parser.add_argument("--n", type=int, default=48, help="pictures of the first batch, at most (48)")
    parser.add_argument("--seconds", type=float, default=20.0, help="read for so long at most (20)")
    parser.add_argument("--out", type=Path, default=Path("data.png"), help="file of the picture (data.png)")
    sys.argv.append("--check")  # which leaves everything as it is
    config = ConfigParser.from_args(parser, OPTIONS)
    args = config.launch.args
    file = picture_file(args.out)
    loader = loader_of(config, args.split)
    training = args.split == "train"
    classes = classes_of(loader)
    batch, plain = both_ways(loader, config.settings.seed, training)
    print(printable("\n".join(lines(loader, config.settings.seed, training, args.seconds))))
    done = drawn(batch, plain, max(args.n, 1), classes, file)
    print(f"wrote {shown(file.absolute())}" if done else "no pictures and no table of numbers: nothing to draw")


if __name__ == "__main__":
    main()
