"""How a process starts: from a command line to what it is to do, and with which config.

options.py parses a command line, command.py reads what it means into a `Launch` (launch.py) and a
checked config; start.py finds the checkpoint to start from and opens the run, and auto.py
finds the one that `-r auto` continues.
parse_config.py calls all of it; whoever evaluates a run without a command line calls `read_run`.
"""

from machinery.launch.command import read_command, read_run
from machinery.launch.launch import Launch
from machinery.launch.options import Command, parse
from machinery.launch.start import open_run

__all__ = ["Command", "Launch", "open_run", "parse", "read_command", "read_run"]
