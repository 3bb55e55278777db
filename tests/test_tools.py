"""The tools run, and say what they mean to."""

import logging

from tools import benchmark


def test_the_benchmarks_sides_compute_the_same(tmp_path, capfd):
    logging.disable(logging.WARNING)
    try:
        case = benchmark.steps(tmp_path, n=320)  # it compares the losses of both sides itself
        figures = benchmark.figure(case, runs=1)
        validation = benchmark.figure(benchmark.validation(tmp_path), runs=1)
    finally:
        logging.disable(logging.NOTSET)
    assert figures["ours_s"] > 0 and figures["unit"] == "step" and validation["ratio"] > 0
    assert "step of a linear model" in capfd.readouterr().out
