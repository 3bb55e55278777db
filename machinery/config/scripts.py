"""The seed of a script that the template has not written: `torch.manual_seed(SEED)` at its top.

Such a script expects that what it builds draws from where it has seeded, one after the other. So
nothing is seeded anew before a component then, and the run has the script's seed.
"""

import random
import sys
from typing import NamedTuple

from machinery import distributed

#: A seed of a person's is less: NumPy takes no other. Torch's own is more, and so is nearly every
#: hash that we seed from.
_OF_PEOPLE = 2**32
#: What this process' script has set, for another run of its: the first one has seeded since.
_set_before: list[int] = []


class Seeding(NamedTuple):
    """Whose seed a run has, where its config says none."""

    #: The script's counts, if it has set one.
    of_script: bool = False
    #: The script's seed that a run has begun with which goes on.
    of_run: int | None = None


def script_seed(seeding: Seeding, before: int | None = None) -> int | None:
    """The script's seed that a run has; None: it has that of its config.

    The generators of this process are seeded with it where the script has not done so. Of several
    processes, all have to ask, and have that of the main one.

    Args:
        seeding: whose it is.
        before: what this has given before, in the same process.
    """
    if seeding.of_run is None and not seeding.of_script:
        return None
    if "torch" not in sys.modules:  # nothing has been seeded, nor built
        return seeding.of_run
    import numpy as np
    import torch

    from machinery.order.seeding import set_root_seed

    here = torch.initial_seed()
    seed = seeding.of_run
    if seed is None:
        seed = distributed.from_main(lambda: here)
        if seed < _OF_PEOPLE:
            _set_before[:] = [seed]
        elif not _set_before:
            return before
        seed = _set_before[0]
    if here != seed:
        torch.manual_seed(seed)
    if before != seed or here != seed:
        random.seed(seed)
        np.random.seed(seed % _OF_PEOPLE)
    set_root_seed(seed, follows_script=True)
    return seed


def told(seeding: Seeding, seed: int) -> str:
    """Whose seed a run has, in words."""
    if seeding.of_run is not None:
        return f"seed {seed}: the run has begun with it, as its script was then"
    return f'seed {seed}: that of the script, as the config has no "seed"'
