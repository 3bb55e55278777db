"""A text as windows of characters."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from base import BaseDataLoader
from utils import ConfigError, DataError, project_path, uniform_rows

#: Codes that a character can have (ASCII).
CODES = 128


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of a text, one behind the other, moved in training by some characters each.

    Args:
        codes: int64 [n], of the characters.
        context: length of a window.
        moved: whether to move them.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, codes: torch.Tensor, context: int, moved: bool) -> None:
        self.codes = codes
        self.context = context
        self.moved = moved

    def __len__(self) -> int:
        windows = (len(self.codes) - 1) // self.context
        if self.moved:  # the last one needs room
            return windows - 1
        return windows

    def __getitems__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows int64 [n] as characters int64 [n, context] and those that come next."""
        first = indices * self.context
        if self.moved:
            shares = uniform_rows(len(indices), 1)[:, 0]
            first = first + (shares * self.context).long()
        places = first[:, None] + torch.arange(self.context + 1)
        window = self.codes[places]
        return window[:, :-1], window[:, 1:]

    def decode(self, codes: list[int]) -> str:
        """The text of some codes, for tools/predict.py."""
        return "".join(chr(code) for code in codes)

    def evaluation_view(self) -> "Windows":
        """The same windows where they stand."""
        view = copy.copy(self)
        view.moved = False
        return view


class TextLoader(BaseDataLoader):
    """Nine tenths of a text for training, the next half of a tenth for validation, then testing.

    Args:
        file: a text in ASCII, relative to the project's root.
        context: length of a window.
        training: the training part, or the test part.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.

    Raises:
        DataError: the file is not there, or no ASCII.
    """

    def __init__(
        self,
        file: str,
        context: int,
        training: bool = True,
        batch_size: int = 32,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        if validation_split:
            raise ConfigError("validation_split: leave it out, the text has a part for it")
        codes = read_codes(project_path(file))
        n = len(codes)
        validation = int(n * 0.9)  # where it begins
        testing = int(n * 0.95)
        if testing - validation <= context:
            what = f"{n} characters are too few for windows of {context}"
            raise DataError(f"{project_path(file)}: {what}")
        part = codes[:validation] if training else codes[testing:]
        dataset = Windows(part, context, moved=training)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
        self.held_out = Windows(codes[validation:testing], context, moved=False)

    def split_validation(self) -> BaseDataLoader:
        """The windows of a part of its own: parts of what is trained on would tell too little."""
        changed = {"dataset": self.held_out, "shuffle": False, "drop_last": False}
        options = {**self.init_kwargs, **changed}
        return BaseDataLoader(validation_split=0.0, name="valid", **options)


def read_codes(file: Path) -> torch.Tensor:
    """The characters of a text as codes: int64 [n]."""
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return torch.from_numpy(np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64))
