"""Go on with a text: python examples/char_lm/generate.py -r saved/models/Char_GPT/RUN"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from typing import Any

from utils import ConfigError, catch_user_errors


def main() -> None:
    """The command line."""
    catch_user_errors()
    args = read_arguments()
    model = read_model(args.resume)

    import torch  # late, so that a mistake in the command line is told at once

    generator = torch.Generator().manual_seed(args.seed)
    print(model.generate(args.prompt, args.length, args.temperature, generator))


def read_arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Let a trained model go on with a text.")
    parser.add_argument("-r", "--resume", required=True, help="run folder or checkpoint")
    parser.add_argument("--prompt", default="And God said", help="the beginning of the text")
    parser.add_argument("--length", type=int, default=300, help="characters to add")
    parser.add_argument("--temperature", type=float, default=0.8, help="lower is more certain")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    args = parser.parse_args()
    if not args.prompt.isascii() or not args.prompt:
        raise ConfigError("--prompt: expected a text in ASCII")
    if args.temperature <= 0:
        raise ConfigError("--temperature: expected a number above 0")
    return args


def read_model(run: str) -> Any:
    """The model of a run, on the CPU."""
    from train import load_run

    model, _ = load_run(run)
    if not hasattr(model, "generate"):
        raise ConfigError(f"{run}: a {type(model).__name__} generates no text")
    return model.cpu()


if __name__ == "__main__":
    main()
