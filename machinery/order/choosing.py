"""What an owner chooses of a pass: samples by weight, batches by length or by tokens."""

import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset, Subset

from machinery.errors import ConfigError, DataError
from machinery.order import seeding

Numbers = np.ndarray[Any, np.dtype[Any]]
#: Where datasets have the classes of their samples.
_CLASSES = ("targets", "labels", "label")
#: Lengths are alike that differ by less than this factor.
_ALIKE = 1.1


class Choice(NamedTuple):
    """What a pass is made of, beside its order."""

    #: "balanced", the name of an attribute of the dataset, or a number for each sample.
    weights: Any = None
    #: "length" or "tokens".
    batch_by: str | None = None
    #: The attribute or column of the dataset that has the lengths.
    lengths: str = "lengths"
    #: Whether samples that cannot be read are left out.
    skip_unreadable: bool = False

    def check(self, loader: Any, own: bool) -> None:
        """Refuse what makes no sense.

        Args:
            loader: whose passes it is for.
            own: a sampler of the user's own chooses them.

        Raises:
            ConfigError: naming the option.
        """
        asked = self.batch_by or self.skip_unreadable or self.weights is not None
        if asked and isinstance(loader.dataset, IterableDataset):
            what = "weights, batch_by and skip_unreadable are not for iterable data"
            raise ConfigError(f"{what}, whose samples and order are its own business")
        if self.batch_by not in (None, "length", "tokens"):
            raise ConfigError(f'batch_by: expected "length" or "tokens", found {self.batch_by!r}')
        if own and (self.batch_by or self.weights is not None):
            raise ConfigError("weights and batch_by have no effect beside a sampler of your own")
        if self.batch_by and loader.drop_last:
            raise ConfigError("drop_last has no effect beside batch_by: set it to false")
        if self.batch_by and self.weights is not None:
            raise ConfigError("weights and batch_by do not go together: leave one out")
        if self.weights is not None and not loader.shuffle:
            what = "weights draw nothing where shuffle is false: each sample is read once"
            logging.getLogger("data_loader").info(what)

    def facts(self) -> dict[str, Any]:
        """What must be the same inside an epoch for a run to go on exactly, in short."""
        weights = self.weights
        if isinstance(weights, list):
            weights = f"a list ({zlib.crc32(repr(weights).encode()):08x})"
        return {"weights": weights, "batch_by": self.batch_by, "lengths": self.lengths}

    def for_validation(self) -> dict[str, Any]:
        """The options of a loader of the held-out samples, of which each counts once."""
        return {**self._asdict(), "weights": None}


def values_of(dataset: Any, name: str, what: str) -> Numbers:
    """The numbers, one for each sample, that a dataset has as an attribute, or as a column.

    Args:
        what: they are, for an error message.

    Raises:
        ConfigError: there are none.
    """
    if type(dataset) is Subset:
        return values_of(dataset.dataset, name, what)[np.asarray(dataset.indices, dtype=np.int64)]
    if hasattr(dataset, "samples_read_from"):  # images that are kept in memory
        return values_of(dataset.samples_read_from, name, what)
    values = None
    if hasattr(dataset, name):
        values = getattr(dataset, name)
    elif _has(dataset, name):
        values = dataset[name]
    if values is None:
        kind = type(dataset).__name__
        raise ConfigError(f"{what}: {kind} has no attribute {name!r}, a number for each sample")
    return _checked(torch.as_tensor(values[:]).cpu().numpy(), len(dataset), f"{what}: {name}")


def _has(dataset: Any, name: str) -> bool:
    """Whether a dataset has an attribute, or a column as those of Hugging Face have them."""
    columns = getattr(dataset, "column_names", None)
    return hasattr(dataset, name) or (isinstance(columns, list) and name in columns)


def _checked(values: Numbers, samples: int, what: str) -> Numbers:
    """Numbers of which there is one for each sample."""
    if values.shape != (samples,):
        raise ConfigError(f"{what} has the shape {[*values.shape]}, for {samples} samples")
    return values


def weights_of(weights: Any, dataset: Any, chosen: Numbers) -> Numbers:
    """The weights of the chosen samples, float64 [n], which add up to 1.

    Args:
        weights: as in `Choice`.
        chosen: the samples to train on.

    Raises:
        ConfigError: there are none, or they are not positive.
    """
    if isinstance(weights, list):
        found = _checked(np.asarray(weights, dtype=np.float64), len(dataset), "weights: the list")
        found = found[chosen]
    elif weights == "balanced":
        _, of_sample, counts = np.unique(
            _classes(dataset)[chosen], return_inverse=True, return_counts=True
        )
        found = 1 / counts[of_sample]
    else:
        found = values_of(dataset, str(weights), "weights")[chosen].astype(np.float64)
    total = found.sum()
    if not (np.isfinite(total) and total > 0 and found.min() >= 0):
        raise ConfigError("weights: expected numbers of at least 0 that are not all 0")
    return found / total


def _classes(dataset: Any) -> Numbers:
    """The class of each sample."""
    inner = dataset
    while type(inner) is Subset or hasattr(inner, "samples_read_from"):
        inner = inner.dataset if type(inner) is Subset else inner.samples_read_from
    for name in _CLASSES:
        if _has(inner, name):
            return values_of(dataset, name, "weights")
    kind = type(inner).__name__
    hint = "give it an attribute targets, or give weights as the name of another"
    raise ConfigError(f'weights: "balanced" needs the class of each sample of {kind}: {hint}')


def drawn(weights: Numbers, *place: int | str) -> Numbers:
    """As many samples as there are weights, drawn with replacement: int64 [n], by their place."""
    generator = torch.Generator().manual_seed(seeding.mix(*place))
    random = torch.rand(len(weights), generator=generator, dtype=torch.float64).numpy()
    found = np.searchsorted(np.cumsum(weights), random, side="right")
    # The sum may end a last bit below 1; a sample of weight 0 is never drawn.
    return np.minimum(found, np.flatnonzero(weights)[-1])


class LengthBatches:
    """Batches of samples that are about as long, or of about as many tokens; a batch sampler.

    Where the order is random, lengths that are alike count as equal: samples of equal lengths are
    shuffled, cut into batches, and these are shuffled. So each pass has as many batches. Where it
    is not, batches are cut from the order as it is.

    Args:
        order: gives the samples of a pass, int64 [n].
        lengths: of all samples.
        size: samples in a batch, or tokens: its longest sample times their number.
        by_tokens: which of the two.
        place: gives where the order of a pass is drawn; None: it is not random.

    Raises:
        ConfigError: a sample has more tokens than a batch.
    """

    def __init__(
        self,
        order: Callable[[int], Numbers],
        lengths: Numbers,
        size: int,
        by_tokens: bool,
        place: Callable[[int], tuple[int | str, ...]] | None,
    ) -> None:
        self._order = order
        self._lengths = lengths
        self._size = size
        self._by_tokens = by_tokens
        self._place = place
        self._steps = _rounded_up(lengths)
        self._epoch = 1
        longest = int(lengths.argmax())
        if by_tokens and lengths[longest] > size:
            what = f"sample {longest} has {lengths[longest]} tokens, and a batch {size}"
            raise ConfigError(f"batch_by: {what}: raise batch_size, or cut the samples")
        self._batches = len(self._starts(self._in_order(order(1), 1)))

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Numbers]:
        samples = self._in_order(self._order(self._epoch), self._epoch)
        if len(samples) and int(samples.max()) >= len(self._lengths):
            raise DataError("data that is batched by length cannot change its length")
        starts = self._starts(samples)
        batches = np.split(samples, starts[1:])
        if self._place is None:
            return iter(batches)
        shuffled = seeding.permutation(len(batches), *self._place(self._epoch), "batches")
        return iter([batches[k] for k in shuffled.tolist()])

    def _in_order(self, samples: Numbers, epoch: int) -> Numbers:
        """The samples of a pass in the order in which batches are cut from them."""
        if self._place is None:
            return samples
        return samples[np.argsort(self._steps[samples], kind="stable")]

    def _starts(self, samples: Numbers) -> list[int]:
        """Where each batch begins."""
        if not self._by_tokens:
            return list(range(0, len(samples), self._size))
        lengths = self._lengths if self._place is None else self._steps
        starts: list[int] = []
        longest = 0
        for at, length in enumerate(lengths[samples].tolist()):
            longest = max(longest, length)
            if not starts or longest * (at + 1 - starts[-1]) > self._size:
                starts.append(at)
                longest = length
        return starts


def _rounded_up(lengths: Numbers) -> Numbers:
    """Lengths, those that are alike being the longest of them."""
    known, of_sample = np.unique(lengths, return_inverse=True)
    rounded = known.copy()
    longest = np.inf
    for k, length in reversed(list(enumerate(known.tolist()))):
        if length * _ALIKE < longest:
            longest = length
        rounded[k] = longest
    return rounded[of_sample]
