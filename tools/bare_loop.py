"""What config.json trains, as a loop written by hand: the yardstick of tools/benchmark.py. It uses torch alone.

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
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to log-probabilities float [n, 10]."""
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.dropout(F.relu(self.fc1(x.flatten(1))), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


def digits(device: torch.device) -> tuple[Data, Data]:
    """The 4,000 training and the 1,000 test digits."""
    with np.load(FILE, allow_pickle=False) as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"]).long()
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
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(turn, [n, 1, height, width], align_corners=False)
    return F.grid_sample(x + MEAN / STD, grid, align_corners=False) - MEAN / STD


def evaluate(model: nn.Module, data: Data, size: int = 64) -> tuple[float, float]:
    """The mean loss and the accuracy."""
    x, y = data
    loss, hits = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    model.eval()
    with torch.no_grad():
        for k in range(0, len(y), size):
            output, target = model(x[k : k + size]), y[k : k + size]
            loss += F.nll_loss(output, target, reduction="sum")
            hits += (output.argmax(1) == target).sum()
    return float(loss) / len(y), float(hits) / len(y)


def main() -> None:
    """Train and print a line an epoch."""
    parser = argparse.ArgumentParser(description="Train LeNet on the bundled digits by hand.")
    parser.add_argument("--epochs", type=int, default=40, help="how many (default: 40)")
    parser.add_argument("--until", type=float, help="stop at this accuracy (0 to 1) on the test digits")
    parser.add_argument("--steps", type=int, help="stop after so many steps, without a word")
    parser.add_argument("--seed", type=int, default=123, help="of the weights, the order and the augmentation")
    args = parser.parse_args()
    if args.epochs < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--epochs and --steps are at least 1")
    torch.default_generator.manual_seed(args.seed)
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    training, test = digits(device)
    kept = torch.randperm(4000)[400:].to(device)  # config.json holds a tenth out
    x, y = training[0][kept], training[1][kept]
    model = LeNet().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=12, gamma=0.3)
    steps = 0
    for epoch in range(1, args.epochs + 1):
        model.train()
        order = torch.randperm(len(y)).to(device)
        total, hits = torch.zeros((), device=device), torch.zeros((), device=device)
        for k in range(0, len(y), 64):
            batch = order[k : k + 64]
            output, target = model(augmented(x.index_select(0, batch))), y.index_select(0, batch)
            loss = F.nll_loss(output, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(target)
            hits += (output.argmax(1) == target).sum()
            steps += 1
            if steps == args.steps:
                return
        scheduler.step()
        train = f"loss {float(total) / len(y):.4f} accuracy {float(hits) / len(y):.4f}"
        loss_there, accuracy = evaluate(model, test)
        print(f"epoch {epoch}: {train}, on the test digits {loss_there:.4f} {accuracy:.4f}", flush=True)
        if args.until is not None and accuracy >= args.until:
            return
    if args.until is not None:
        sys.exit(f"{args.until} was never reached")


if __name__ == "__main__":
    main()
