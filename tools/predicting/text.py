"""Text: scores [n, places, tokens] of tokens [n, places]."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch.nn import functional as F

from tools.predicting.kinds import Kind, Part, Worst, rounded, share
from tools.trained import dataset_of

#: What stands for a place that does not count.
IGNORED = -100
#: Sequences that are told, and letters of each.
_TOLD, _LETTERS = 3, 76


class Text(Kind):
    """What is said of all tokens."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.decode = decoder(loader)
        self.right = 0
        self.count = 0
        self.nats = 0.0
        self.worst = Worst(_TOLD)

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch."""
        scores = part.output.float()
        target = part.target.long()
        if scores.shape[1] != target.shape[1]:  # as cross_entropy has them
            scores = scores.movedim(1, -1)
        nats = F.cross_entropy(scores.flatten(0, 1), target.flatten(), reduction="none")
        nats = nats.reshape(target.shape).double()
        said = scores.argmax(dim=-1)
        rows = []
        for place in range(len(target)):
            counts = target[place] != IGNORED
            tokens = int(counts.sum())
            right = int((said[place] == target[place])[counts].sum())
            loss = float(nats[place][counts].sum())
            self.right += right
            self.count += tokens
            self.nats += loss
            row = {
                "target": self.decode(target[place][counts].tolist()),
                "predicted": self.decode(said[place][counts].tolist()),
                "tokens": tokens,
                "right": right,
                "loss": rounded(share(loss, tokens)),
            }
            rows.append(row)
            self.worst.add(share(loss, tokens), part.first + place, (part.first + place, row))
        return rows

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """How many tokens are right, and the sequences that are most wrong."""
        loss = share(self.nats, self.count)
        right = share(self.right, self.count)
        yield f"{self.right:,} of {self.count:,} tokens are right ({right:.1%})"
        perplexity = math.exp(min(loss, 700.0))
        yield f"loss {loss:.4g} a token, {loss / math.log(2):.4g} bits, perplexity {perplexity:.4g}"
        for number, row in self.worst.first(min(n, _TOLD)):
            yield f"sample {number}: {row['right']:,} of {row['tokens']:,}"
            yield f"  {_line(row['target'])}"
            yield f"  {_line(row['predicted'])}"


def _line(text: str) -> str:
    return repr(text)[1:-1][:_LETTERS]


def decoder(loader: Any) -> Callable[[list[int]], str]:
    """What makes a text of tokens: the `decode` of the loader, its dataset or their tokenizer.

    Else their numbers are shown.
    """
    for owner in (loader, dataset_of(loader)):
        for each in (owner, getattr(owner, "tokenizer", None)):
            decode = getattr(each, "decode", None)
            if callable(decode):
                return partial(_decoded, decode)
    return _numbers


def _decoded(decode: Callable[[list[int]], Any], tokens: list[int]) -> str:
    return str(decode(tokens))


def _numbers(tokens: list[int]) -> str:
    return " ".join(str(token) for token in tokens)
