"""The validation split, the data of each side, and the options of a loader that make no sense."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch.utils.data import DistributedSampler, IterableDataset, Subset

from machinery.errors import ConfigError, DataError
from machinery.order import seeding
from machinery.order.batches import Split


def split_samples(
    n: int, split: float, name: str = "", shuffle: bool = True
) -> tuple[Split, Split]:
    """The samples to train on and those to validate on: the classic template's, whatever the seed.

    Args:
        n: how many samples there are.
        split: share (0 ≤ x < 1) or number of samples to validate on.
        name, shuffle: of the loader.

    Raises:
        ConfigError: the split leaves no samples on one side.
    """
    n_valid = split if isinstance(split, int) else int(n * split)
    if split < 0 or not 0 < n_valid < n:
        left = "leaves 0 samples"
        if n_valid:
            left = f"leaves {max(n - n_valid, 0)} for training"
        hint = "give a share or number that leaves both some"
        if n == 0:  # nobody has counted them
            hint = "iterable data has no length: leave it out, and give a valid_data_loader"
            raise ConfigError(f"validation_split {split}: {hint}")
        raise ConfigError(f"validation_split {split} of {n} {left}: {hint}")
    if not shuffle:
        what = "reads its samples in one order, as the split has drawn them"
        logging.getLogger("data_loader").info(f"the loader {name!r} {what}")
    order = np.arange(n)
    drawing = np.random.RandomState(0)
    drawing.shuffle(order)
    if seeding.follows_script():  # the classic template's split has left NumPy there
        np.random.set_state(drawing.get_state())
    # Arrays, not lists of a million Python integers.
    return Split(order[n_valid:]), Split(order[:n_valid])  # type: ignore[arg-type]


def samples_of(sampler: Any) -> list[int]:
    """The samples that a validation sampler stands for."""
    indices = getattr(sampler, "indices", None)
    if indices is None:
        indices = sampler
    return [int(i) for i in indices]


def evaluation_view(dataset: Any) -> Any:
    """The dataset as evaluation reads it: its `evaluation_view()`, or itself."""
    if type(dataset) is Subset:
        return Subset(evaluation_view(dataset.dataset), dataset.indices)
    if hasattr(dataset, "evaluation_view"):
        return dataset.evaluation_view()
    return dataset


def check_options(
    batch_size: Any, shuffle: bool, split: float, num_workers: int, options: dict[str, Any]
) -> None:
    """Refuse options of a loader that are wrong, or that contradict each other.

    Raises:
        ConfigError: naming the option.
    """
    sampler = options.get("sampler")
    batch_sampler = options.get("batch_sampler")
    if isinstance(sampler, DistributedSampler):
        cuts = "the loader cuts each batch for the processes itself"
        raise ConfigError(f"leave the DistributedSampler out: {cuts}")
    if num_workers > 1000:
        raise ConfigError(f"num_workers: {num_workers} processes are too many")
    if batch_sampler is None:
        if type(batch_size) is not int or batch_size < 1:
            raise ConfigError(
                f"batch_size: expected an integer of at least 1, found {batch_size!r}"
            )
    elif shuffle or options.get("drop_last"):
        raise ConfigError(
            "shuffle and drop_last have no effect beside a batch_sampler: set them to false"
        )
    if split and (sampler is not None or batch_sampler is not None):
        raise ConfigError(
            "validation_split has no effect beside a sampler of your own: set it to 0"
        )


def count_samples(dataset: Any, name: str) -> int:
    """How many samples a dataset has; 0 for iterable data, which cannot be counted.

    Raises:
        DataError: none.
    """
    if isinstance(dataset, IterableDataset):
        return 0
    n = len(dataset)
    if n == 0:
        kind = type(dataset).__name__
        raise DataError(f"the dataset of the loader {name!r} is empty: {kind} has no samples")
    return n


def samples_in(loader: Any) -> int:
    """Samples in a pass over any loader; 0 if nobody knows."""
    counted = getattr(loader, "n_samples", 0)
    if counted:
        return counted
    dataset = getattr(loader, "dataset", ())
    if not hasattr(dataset, "__len__"):  # a stream
        return 0
    return len(dataset)


class DatasetMaker:
    """Makes the dataset that a config describes: to train on, to validate on, to test on.

    Args:
        make: makes it with the arguments of some sections, of which the later replace the others.
        sections: those that the config has: "args", "evaluation_args", "test_args".
        key: the dotted key path to it.
        origin: of it, for an error message.
    """

    def __init__(
        self,
        make: Callable[[tuple[str, ...]], Any],
        sections: Iterable[str],
        key: str,
        origin: str,
    ) -> None:
        self._given = make
        self._key = key
        self._sections = tuple(sections)
        self._where = f"{origin}: {key}"
        self._to_train_on: Any = None

    def _make(self, sections: tuple[str, ...]) -> Any:
        """Make it; what its constructor draws is the same for each."""
        seeding.seed_everything(seeding.root_seed(), "init", self._key)
        return self._given(sections)

    def made(self, training: bool = True) -> Any:
        """The dataset to train on, made once; or that to test on.

        Raises:
            ConfigError: the config doesn't say what is tested.
        """
        if training:
            if self._to_train_on is None:
                self._to_train_on = self._make(("args",))
            return self._to_train_on
        if "test_args" not in self._sections:
            hint = 'say what the test data have in place of its args: "test_args": {"train": false}'
            raise ConfigError(f"{self._where} is the training data alone: {hint}")
        return self._make(("args", "evaluation_args", "test_args"))

    def evaluated(self, dataset: Any) -> Any:
        """A dataset that this has made, as validation reads it.

        Raises:
            ConfigError: there it has other samples.
        """
        if "evaluation_args" not in self._sections:
            return evaluation_view(dataset)
        view = self._make(("args", "evaluation_args"))
        if len(view) != len(dataset):
            what = f"makes {len(view)} samples of {len(dataset)}"
            hint = "what tests on other samples belongs into test_args"
            raise ConfigError(f"{self._where}.evaluation_args {what}: {hint}")
        return view
