"""A CSV file through pandas: numbers, categories and holes; the one about rents is made up."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Subset, TensorDataset

from base import BaseDataLoader
from utils import ConfigError, DataError, project_path, seeding


class TableLoader(BaseDataLoader):
    """The rows of a table.

    Every tenth row is for testing; the others are for training, without those of one fold.

    Args:
        file: a CSV file with a line of names, relative to the project's root; `rents.csv` is made
            if it is not there.
        target: the column to foretell.
        columns: the network's inputs, in their order: names of columns of numbers, whose holes
            become NaN, and NAME_VALUE for the values of columns of text, 1 or 0; any other value is
            0 in all of them.
        folds: in how many parts the training rows are cut.
        fold: the part that validates, from 0.
        training: the training rows, or the test rows.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.

    Raises:
        ConfigError: there is no such column or fold.
        DataError: the file cannot be read, or lacks a target.
    """

    def __init__(
        self,
        file: str,
        target: str,
        columns: list[str],
        folds: int = 5,
        fold: int = 0,
        training: bool = True,
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        if validation_split:
            raise ConfigError("validation_split: leave it out, a fold is for it")
        if not 0 <= fold < folds or folds < 2:
            raise ConfigError(f"fold {fold} of {folds}: expected at least 2 folds, and one of them")
        x, y = read_table(project_path(file), target, columns)
        rows = np.arange(len(y))
        for_testing = rows % 10 == 9
        others = rows[~for_testing]
        drawn = others[seeding.permutation(len(others), "folds").numpy()]
        held_out = drawn[fold::folds]
        if training:
            kept = np.setdiff1d(others, held_out)
        else:
            kept = rows[for_testing]
        #: Float [n, columns], and [n].
        self.x = x[kept]
        self.y = y[kept]
        table = TensorDataset(x, y)
        dataset = Subset(table, kept.tolist())
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
        self.held_out = Subset(table, held_out.tolist())

    def split_validation(self) -> BaseDataLoader:
        """The rows of the fold."""
        changed = {"dataset": self.held_out, "shuffle": False, "drop_last": False}
        options = {**self.init_kwargs, **changed}
        return BaseDataLoader(validation_split=0.0, name="fold", **options)


def read_table(file: Path, target: str, columns: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns float [n, columns], and the target [n]; what is missing or infinite is NaN."""
    if not file.exists() and file.name == "rents.csv":
        logging.getLogger("data_loader").info(f"making up rents: {file}")
        make_rents(file)
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    check_names(file, table, target, columns)
    inputs = pd.get_dummies(table.drop(columns=target)).reindex(columns=columns, fill_value=0)
    x = torch.tensor(inputs.to_numpy(dtype=np.float32))
    y = torch.tensor(table[target].to_numpy(dtype=np.float32))
    lacking = (~y.isfinite()).nonzero()
    if len(lacking):
        raise DataError(f"{file}: {target} is missing or infinite in row {int(lacking[0])}")
    return torch.where(x.isfinite(), x, torch.nan), y


def check_names(file: Path, table: pd.DataFrame, target: str, columns: list[str]) -> None:
    """Refuse a target that is no column of numbers, and inputs that the table does not have."""
    numbers = []
    texts = []
    shown = []
    for name in table:
        if pd.api.types.is_numeric_dtype(table[name]):
            numbers.append(name)
            shown.append(name)
        else:
            texts.append(name)
            shown.append(f"{name} (text)")
    wrong = []
    for name in columns:
        text, _, _ = name.rpartition("_")
        if name not in numbers and text not in texts:
            wrong.append(name)
    if wrong or target not in numbers or target in columns:
        named = ", ".join([*wrong, target])
        raise ConfigError(f"{file} has no numbers {named}; there are: {', '.join(shown)}")


def make_rents(file: Path, n: int = 3000) -> None:
    """Make up rents of flats, with a rule, noise and holes."""
    rng = np.random.default_rng(0)
    area = rng.gamma(9, 8, n) + 12
    rooms = rng.integers(1, 6, n)
    year = rng.integers(1900, 2025, n)
    quarter = rng.choice(["centre", "north", "river"], n, p=[0.5, 0.3, 0.2])
    floor = rng.integers(0, 9, n).astype(float)
    prices = {"centre": 15.0, "north": 10.0, "river": 18.0}
    price = np.array([prices[name] for name in quarter])
    rent = area * price + 40 * rooms + 0.02 * (year - 1960.0) ** 2
    rent = rent * (1 + 0.02 * floor) + rng.normal(0, 60, n)
    unknown = rng.random(n) < 0.1
    floor[unknown] = np.nan
    columns = {
        "area": area.round(1),
        "rooms": rooms,
        "year": year,
        "floor": floor,
        "quarter": quarter,
        "rent": rent.round(2),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(file, index=False)
