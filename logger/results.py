"""The results of evaluations: shown, and kept in test.json beside the checkpoints."""

import json
import logging
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.errors import StorageError
from machinery.files import check_place, read_json, shown, write_json


def report_result(file: Path, entry: dict[str, Any], logger: logging.Logger) -> None:
    """Show a result, and note it beside the checkpoint instead of an earlier one of these data.

    Args:
        file: all results of the run folder, with all their digits.
        entry: "checkpoint", "split", "samples" and "metrics".
        logger: shows the numbers to four digits.
    """
    checkpoint = shown(file.parent / entry["checkpoint"])
    logger.info(f"{checkpoint}, {entry['split']} data, {entry['samples']:,} samples")
    width = max((len(name) for name in entry["metrics"]), default=0)
    for name, value in entry["metrics"].items():
        logger.info(f"{name:<{width}}  {four_digits(value)}")
    if distributed.is_main():
        _keep_result(file, entry, logger)


def four_digits(value: float) -> str:
    """A number to four significant digits, its whole part to all of them."""
    if 9999.5 <= abs(value) < 1e15:  # what is less has no five digits, rounded
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _keep_result(file: Path, entry: dict[str, Any], logger: logging.Logger) -> None:
    """Note a result in place of an earlier one of the same data."""
    results = []
    for old in _results(file, logger):
        if old["checkpoint"] != entry["checkpoint"] or old["split"] != entry["split"]:
            results.append(old)
    results.append(entry)
    try:
        check_place(file)
        write_json({"results": results}, file)
    except StorageError as error:
        logger.warning(f"{error}; its result is {json.dumps(entry['metrics'])}")


def _results(file: Path, logger: logging.Logger) -> list[dict[str, Any]]:
    """The results of a file; one that holds anything else, or cannot be read, is kept aside."""
    try:
        found = list(read_json(file)["results"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError):
        found = [None]
    results = []
    for result in found:
        if isinstance(result, dict) and {"checkpoint", "split"} <= result.keys():
            results.append(result)
    if len(results) < len(found):
        _keep_aside(file, logger)
    return results


def _keep_aside(file: Path, logger: logging.Logger) -> None:
    """Rename a file of results that is spoilt: the good ones go into a new one."""
    try:
        check_place(file)
        file.replace(file.with_name(f"{file.name}.old"))
        logger.warning(f"{file.name} holds what is no result: it is renamed {file.name}.old")
    except (OSError, StorageError) as error:
        logger.warning(f"{file.name} holds what is no result: {error}")
