"""Show each value of a config, and where it came from.

python tools/show_config.py -c config.json --set seed=7
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery import secrets
from machinery.config.source import dotted, leaves
from machinery.telling import printable
from parse_config import ConfigParser
from train import OPTIONS


class Line(NamedTuple):
    """A value of a config, and where it came from."""

    text: str
    origin: str


def described(config: ConfigParser) -> list[str]:
    """A line for each value: where it is in the config, what it is, and where it came from."""
    given = dict(leaves(config.source.values))
    lines = []
    for path, value in leaves(secrets.masked(config.settings.model_dump())):
        origin = "default"
        if path in given:
            origin = config.where(*path)
        shown = json.dumps(value, ensure_ascii=False)
        lines.append(Line(f"{dotted(path)} = {shown}", origin))
    width = max(len(line.text) for line in lines)
    return [f"{line.text:<{width}}  {line.origin}" for line in lines]


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(
        description="Show each value of a config, and where it came from."
    )
    sys.argv.append("--check")  # which leaves everything as it is
    config = ConfigParser.from_args(parser, OPTIONS)
    print(printable("\n".join(described(config))))


if __name__ == "__main__":
    main()
