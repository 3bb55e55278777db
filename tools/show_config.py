"""Show each value of a config, and where it came from: python tools/show_config.py -c config.json --set seed=7"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.config.source import dotted, leaves
from machinery.telling import printable
from parse_config import ConfigParser
from train import OPTIONS


def described(config: ConfigParser) -> list[str]:
    """A line for each value: where it is in the config, what it is, and where it came from."""
    given = {path for path, _ in leaves(config.source.values)}
    values = leaves(config.settings.model_dump())
    rows = [(f"{dotted(path)} = {json.dumps(value, ensure_ascii=False)}", path) for path, value in values]
    width = max(len(text) for text, _ in rows)
    return [f"{text:<{width}}  {config.where(*path) if path in given else 'default'}" for text, path in rows]


def main() -> None:
    """The command line: that of train.py."""
    parser = argparse.ArgumentParser(description="Show each value of a config, and where it came from.")
    sys.argv.append("--check")  # which leaves everything as it is
    print(printable("\n".join(described(ConfigParser.from_args(parser, OPTIONS)))))


if __name__ == "__main__":
    main()
