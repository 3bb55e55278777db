"""Streams that say where they stand: each worker of each process goes on there, and reads nothing
again."""

from exact import EXACT_SETTINGS  # noqa: F401
