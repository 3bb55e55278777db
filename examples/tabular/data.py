"""A CSV file through pandas: numbers, categories and holes; the one about rents is made up."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Subset, TensorDataset

from base import BaseDataLoader
from utils import ROOT, ConfigError, DataError, seeding


class TableLoader(BaseDataLoader):
    """The rows of a table. Every tenth row is for testing; the others are for training, without those of one fold.

    Args:
        file: a CSV file with a line of names, relative to the project's root; `rents.csv` is made if it is not there.
        target: the column to foretell.
        columns: the network's inputs, in their order: names of columns of numbers, whose holes become NaN, and
            NAME_VALUE for the values of columns of text, 1 or 0; any other value is 0 in all of them.
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
        x, y = self._read(ROOT / file, target, columns)
        table, rows = TensorDataset(x, y), np.arange(len(y))
        testing = rows % 10 == 9
        order = rows[~testing][seeding.permutation(int((~testing).sum()), "folds").numpy()]
        held_out = order[fold::folds]
        kept = np.sort(np.setdiff1d(order, held_out)) if training else rows[testing]
        #: Of the training rows: float [n, columns], and [n].
        self.x, self.y = x[kept], y[kept]
        super().__init__(Subset(table, kept.tolist()), batch_size, shuffle, validation_split, num_workers, **options)
        self._held_out = Subset(table, held_out.tolist())

    def _read(self, file: Path, target: str, columns: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        if not file.exists() and file.name == "rents.csv":
            logging.getLogger("data_loader").info(f"making up rents: {file}")
            make_rents(file)
        try:
            table = pd.read_csv(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
        unknown = [name for name in columns if name not in table and name.rpartition("_")[0] not in texts]
        if target not in table or target in (*texts, *columns) or unknown:
            there = ", ".join(f"{name} (text)" if name in texts else name for name in table)
            raise ConfigError(f"{file} has no numbers {', '.join([*unknown, target])}; there are: {there}")
        numbers = pd.get_dummies(table.drop(columns=target)).reindex(columns=columns, fill_value=0)
        x, y = (torch.tensor(part.to_numpy(dtype=np.float32)) for part in (numbers, table[target]))
        if not y.isfinite().all():
            raise DataError(f"{file}: {target} is missing or infinite in row {int((~y.isfinite()).nonzero()[0])}")
        return torch.where(x.isfinite(), x, torch.nan), y

    def split_validation(self) -> BaseDataLoader:
        """The rows of the fold."""
        kwargs = {**self.init_kwargs, "dataset": self._held_out, "shuffle": False, "drop_last": False}
        return BaseDataLoader(validation_split=0.0, name="fold", **kwargs)


def make_rents(file: Path, n: int = 3000) -> None:
    """Make up rents of flats, with a rule, noise and holes."""
    rng = np.random.default_rng(0)
    area, rooms, year = rng.gamma(9, 8, n) + 12, rng.integers(1, 6, n), rng.integers(1900, 2025, n)
    quarter = rng.choice(["centre", "north", "river"], n, p=[0.5, 0.3, 0.2])
    floor = rng.integers(0, 9, n).astype(float)
    price = {"centre": 15.0, "north": 10.0, "river": 18.0}
    rent = area * np.array([price[name] for name in quarter]) + 40 * rooms + 0.02 * (year - 1960.0) ** 2
    rent = rent * (1 + 0.02 * floor) + rng.normal(0, 60, n)
    floor[rng.random(n) < 0.1] = np.nan
    columns = {"area": area.round(1), "rooms": rooms, "year": year, "floor": floor, "quarter": quarter}
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({**columns, "rent": rent.round(2)}).to_csv(file, index=False)
