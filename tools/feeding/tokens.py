"""Text in a loader's batches: how long its sequences are, and which tokens it has."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tools.pictures import Named, named_tensors, pyplot as plt, save
from tools.predicting.text import decoder
from tools.trained import dataset_of

#: Tokens that are told, and drawn.
_TOLD, _DRAWN = 5, 30
#: Sequences that are told, and letters of each.
_SHOWN, _LETTERS = 3, 66
#: Letters of the names of tokens beside each other.
_ROTATED = 60
#: Places of a sequence from which on two dimensions of integers are text.
_LEAST = 3


def tokens_in(batch: Any) -> Named | None:
    """The first integers [n, places] of a batch."""
    for named in named_tensors(batch):
        values = named.values
        whole = not values.is_floating_point() and values.dtype != torch.bool
        if values.ndim == 2 and whole and values.shape[1] >= _LEAST and not _is_mask(named):
            return named
    return None


def _is_mask(named: Named) -> bool:
    """Whether a tensor says which places count."""
    return "mask" in named.place


def lengths_of(batch: Any, tokens: Named, pad: int | None) -> torch.Tensor:
    """How many places of each sequence count: by a mask, else up to where the padding begins."""
    for named in named_tensors(batch):
        if _is_mask(named) and named.values.shape == tokens.values.shape:
            return named.values.bool().sum(dim=1).cpu()
    values = tokens.values.cpu()
    if pad is None:
        return torch.full((len(values),), values.shape[1])
    counts = (values != pad).long()
    places = torch.arange(1, values.shape[1] + 1)
    return (counts * places).amax(dim=1)


def padding_of(loader: Any) -> int | None:
    """The token that fills sequences up, as the loader, its dataset or a tokenizer knows it."""
    for owner in (loader, dataset_of(loader)):
        for each in (owner, getattr(owner, "tokenizer", None)):
            for name in ("pad_token_id", "pad_id", "padding_idx", "pad"):
                found = getattr(each, name, None)
                if isinstance(found, int) and not isinstance(found, bool):
                    return found
    return None


class Tokens:
    """What the sequences of a text have shown.

    Args:
        loader: whose `decode` makes texts of tokens, and whose `pad_id` fills them up.
    """

    def __init__(self, loader: Any) -> None:
        self.decode = decoder(loader)
        self.pad = padding_of(loader)
        self.place = ""
        self.counts: Counter[int] = Counter()
        self.lengths: list[int] = []
        self.first: list[list[int]] = []

    def add(self, batch: Any) -> None:
        """Add a batch; one that holds no text adds nothing."""
        tokens = tokens_in(batch)
        if tokens is None:
            return
        self.place = tokens.place
        lengths = lengths_of(batch, tokens, self.pad).tolist()
        self.lengths += lengths
        values = tokens.values.cpu()
        there = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
        found, counts = values[there].unique(return_counts=True)
        self.counts.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        for row, length in zip(values.tolist(), lengths, strict=True):
            if len(self.first) < _SHOWN:
                self.first.append(row[:length])

    def lines(self) -> Iterator[str]:
        """Lengths, the most frequent tokens, and how sequences begin."""
        if not self.lengths:
            return
        lengths = torch.tensor(self.lengths, dtype=torch.float64)
        numbers = f"{int(lengths.min())} to {int(lengths.max())} long, mean {lengths.mean():.4g}"
        yield f"text {self.place}: {len(lengths):,} sequences, {numbers}"
        total = sum(self.counts.values())
        told = []
        for token, count in self.counts.most_common(_TOLD):
            told.append(f"{self._shown(token)} {count / total:.1%}")
        kinds = f"{len(self.counts):,} different ones"
        yield f"tokens: {total:,}, {kinds}: {', '.join(told)}"
        for tokens in self.first:
            yield f"  {repr(self.decode(tokens))[1:-1][:_LETTERS]}"

    def _shown(self, token: int) -> str:
        text = repr(self.decode([token]))
        if text == f"'{token}'":
            return str(token)
        return f"{token} {text}"

    def draw(self, file: Path) -> bool:
        """Write a picture of the lengths and of the most frequent tokens; whether there is text."""
        if not self.lengths:
            return False
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
        bins = min(max(self.lengths) - min(self.lengths) + 1, 40)
        left.hist(self.lengths, bins=bins)
        left.set(xlabel="length", ylabel="sequences")
        left.locator_params(axis="x", integer=True)
        common = self.counts.most_common(_DRAWN)
        names = [repr(self.decode([token]))[1:-1].replace("$", r"\$") for token, _ in common]
        places = range(len(common))
        right.bar(places, [count for _, count in common])
        rotation = 0
        if len("".join(names)) > _ROTATED:
            rotation = 60
        right.set_xticks(places, names, fontsize=7, rotation=rotation)
        right.set(xlabel="most frequent tokens", ylabel="places")
        save(figure, file)
        return True
