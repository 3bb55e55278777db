"""A small GPT on characters.

Radford et al. 2019, "Language models are unsupervised multitask learners".
"""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel
from examples.char_lm.data import CODES

#: Standard deviation of the weights at the start.
STD = 0.02


class Block(nn.Module):
    """Attention to what came before, and a layer for each place, both beside the way through.

    Args:
        width, heads, dropout: of it.
        std: of the weights whose outputs are added to the way through, at the start.
    """

    def __init__(self, width: int, heads: int, dropout: float, std: float) -> None:
        super().__init__()
        self.heads = heads
        self.std = std
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        inner = 4 * width
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name in ("out.weight", "mlp.2.weight"):
                nn.init.normal_(parameter, std=self.std)
            elif parameter.ndim > 1:
                nn.init.normal_(parameter, std=STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [n, places, width] to the same shape."""
        n, places, width = x.shape
        dropout = self.dropout if self.training else 0.0
        qkv = self.qkv(self.norm1(x)).view(n, places, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        seen = seen.transpose(1, 2).reshape(n, places, width)
        x = x + F.dropout(self.out(seen), dropout)
        return x + F.dropout(self.mlp(self.norm2(x)), dropout)


class GPT(BaseModel):
    """Says which character comes next, at each place of a window.

    Args:
        context: the longest window.
        width, layers, heads, dropout: of the transformer.
    """

    def __init__(
        self, context: int, width: int, layers: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.context = context
        self.character = nn.Embedding(CODES, width)
        self.place = nn.Embedding(context, width)
        # All that is added to the way through together is as large as one of them alone.
        std = STD / (2 * layers) ** 0.5
        blocks = [Block(width, heads, dropout, std) for _ in range(layers)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CODES, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights that are not a block's."""
        for layer in (self.character, self.place, self.head):
            nn.init.normal_(layer.weight, std=STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Characters int64 [n, places] to logits float [n, places, CODES]."""
        x = self.character(x) + self.place.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(x)))

    @torch.no_grad()
    def generate(
        self, text: str, length: int, temperature: float, generator: torch.Generator
    ) -> str:
        """Go on with a text, character by character.

        Args:
            text: the beginning; not empty, ASCII.
            length: how many characters to add.
            temperature: of the distribution that they are drawn from; lower is more certain.
            generator: draws them.
        """
        codes = list(text.encode("ascii"))
        for _ in range(length):
            logits = self(torch.tensor([codes[-self.context :]]))[0, -1]
            chances = (logits / temperature).softmax(dim=0)
            codes.append(int(torch.multinomial(chances, 1, generator=generator)))
        return bytes(codes).decode("ascii")
