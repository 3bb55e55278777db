"""What config.json trains, as a loop written by hand: the yardstick of tools/benchmark.py.

It uses torch alone.

python tools/bare_loop.py --until 0.96      # until the accuracy on the test digits is that
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

FILE = Path(__file__).resolve().parent.parent / "data" / "mnist5k.npz"
MEAN, STD = 0.1307, 0.3081
Data = tuple[torch.Tensor, torch.Tensor]


class LeNet(nn.Module):
    """The network of config.json."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to log-probabilities float [n, 10]."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def digits(device: torch.device) -> tuple[Data, Data]:
    """The 4,000 training and the 1,000 test digits."""
    with np.load(FILE, allow_pickle=False) as arrays:
        images = torch.from_numpy(arrays["images"])
        labels = torch.from_numpy(arrays["labels"]).long()
    x = images[:, None].float().div_(255).sub_(MEAN).div_(STD).to(device)
    training = (torch.arange(5000) % 500 < 400).to(device)
    y = labels.to(device)
    return (x[training], y[training]), (x[~training], y[~training])


def augmented(x: torch.Tensor, shift: float = 2.0, rotate: float = 10.0) -> torch.Tensor:
    """Images float [n, 1, h, w], each turned and moved at random."""
    n, _, height, width = x.shape
    angle = (torch.rand(n, device=x.device) * 2 - 1) * math.radians(rotate)
    right = (torch.rand(n, device=x.device) * 2 - 1) * (2 * shift / width)
    down = (torch.rand(n, device=x.device) * 2 - 1) * (2 * shift / height)
    cos = angle.cos()
    sin = angle.sin()
    turn = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(turn, [n, 1, height, width], align_corners=False)
    return F.grid_sample(x + MEAN / STD, grid, align_corners=False) - MEAN / STD


def train(
    model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, steps: int | None = None
) -> tuple[float, float]:
    """Train for an epoch, or for so many steps of it; the mean loss and the accuracy."""
    x, y = data
    loss_sum = torch.zeros((), device=x.device)
    hits = torch.zeros((), device=x.device)
    order = torch.randperm(len(y)).to(x.device)
    model.train()
    for k in range(0, len(y), 64)[:steps]:
        batch = order[k : k + 64]
        output = model(augmented(x.index_select(0, batch)))
        target = y.index_select(0, batch)
        loss = F.nll_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.detach() * len(target)
        hits += (output.argmax(1) == target).sum()
    return float(loss_sum) / len(y), float(hits) / len(y)


def evaluate(model: nn.Module, data: Data, size: int = 64) -> tuple[float, float]:
    """The mean loss and the accuracy."""
    x, y = data
    loss = torch.zeros((), device=x.device)
    hits = torch.zeros((), device=x.device)
    model.eval()
    with torch.no_grad():
        for k in range(0, len(y), size):
            output = model(x[k : k + size])
            target = y[k : k + size]
            loss += F.nll_loss(output, target, reduction="sum")
            hits += (output.argmax(1) == target).sum()
    return float(loss) / len(y), float(hits) / len(y)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train LeNet on the bundled digits by hand.")
    parser.add_argument("--epochs", type=int, default=40, help="how many (default: 40)")
    parser.add_argument(
        "--until", type=float, help="stop at this accuracy (0 to 1) on the test digits"
    )
    parser.add_argument("--steps", type=int, help="stop after so many steps, without a word")
    parser.add_argument(
        "--seed", type=int, default=123, help="of the weights, the order and the augmentation"
    )
    args = parser.parse_args()
    if args.epochs < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--epochs and --steps are at least 1")
    return args


def main() -> None:
    """Train and print a line an epoch."""
    args = arguments()
    torch.default_generator.manual_seed(args.seed)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    (x, y), test = digits(device)
    kept = torch.randperm(len(y))[400:].to(device)  # config.json holds a tenth out
    training = x[kept], y[kept]
    model = LeNet().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=12, gamma=0.3)
    steps = args.steps
    for epoch in range(1, args.epochs + 1):
        loss, accuracy = train(model, training, optimizer, steps)
        if steps is not None:
            steps -= math.ceil(len(kept) / 64)
            if steps <= 0:
                return
        scheduler.step()
        test_loss, test_accuracy = evaluate(model, test)
        there = f"on the test digits {test_loss:.4f} {test_accuracy:.4f}"
        print(f"epoch {epoch}: loss {loss:.4f} accuracy {accuracy:.4f}, {there}", flush=True)
        if args.until is not None and test_accuracy >= args.until:
            return
    if args.until is not None:
        sys.exit(f"{args.until} was never reached")


if __name__ == "__main__":
    main()
