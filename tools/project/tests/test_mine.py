"""Yours: what the common tests (test_project.py) have to know of your task, and your own tests.

A test is a function whose name begins with test_, such as

    def test_a_picture_of_any_size_is_classified():
        output = Net().eval()(torch.zeros(2, 1, 40, 60))
        assert output.shape == (2, 10)

and `pytest` runs it. What it needs of the project it imports: `from model.model import Net`.
"""

from typing import Any

#: Settings, by their keys, that make the runs of the common tests short: some of the data, a small
#: network. Where the data is not in git, data that is: {"data_loader.args.data_dir": "tests/data"}.
SHORT: dict[str, Any] = {}
#: What two processes do: "equal", what one does; "train", numbers of their own, because the task
#: draws in `_forward`, or compares the samples of a batch.
TWO_PROCESSES = "equal"
