"""Weights that other programs have written: a state_dict, alone or in a dict, or safetensors.

A run may begin with them. As of every file, nothing but tensors and plain data is read.
"""

from pathlib import Path
from typing import Any

import torch

from machinery.checkpoints import file as checkpoint, stored, untrusted
from machinery.checkpoints.file import FORMAT_VERSION, Content
from machinery.errors import CheckpointError

State = dict[str, Any]
#: Where programs keep a network's weights beside others, in the order in which they are looked for.
_KEYS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
#: What DataParallel, torch.compile and Lightning put before the names of weights.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SAFETENSORS = ".safetensors"


def read(path: Path, any_weights: bool, mmap: bool = False, known: bool = False) -> Content:
    """A checkpoint, or the weights in a file of another program as if they were one's.

    Args:
        any_weights: whether another program's will do.
        mmap: leave the tensors in the file until they are used.
        known: as for `stored.load`.

    Raises:
        CheckpointError: with the reason.
    """
    if not any_weights:
        return stored.load(path, mmap, known)
    if path.suffix == _SAFETENSORS and path.is_file():
        return _content(_safetensors(path))
    if not path.is_file() or checkpoint.has_checksum(path):
        return stored.load(path, mmap, known)
    state = _torch(path, mmap)
    if isinstance(state, dict) and "format_version" in state:  # one that has lost its checksum
        return checkpoint.load(path, mmap)
    return _content(_weights(state, path))


def _content(weights: State) -> Content:
    """What a checkpoint of these weights holds, of a run that nothing is known of."""
    return Content(
        format_version=FORMAT_VERSION,
        arch="",
        epoch=1,
        state_dict=weights,
        optimizer={},
        monitor_best=0.0,
        config={},
        progress={"step": None, "finished": False, "lr": 0.0},
        states={},
        classes={},
        environment={},
    )


def _torch(path: Path, mmap: bool) -> Any:
    """What `torch.save` has written, in its format of today or in an older one, which is no zip."""
    with open(path, "rb") as file:
        is_zip = file.read(2) == b"PK"
    if is_zip:
        untrusted.check_entries(path)
        untrusted.check_globals(path)
        return checkpoint.read_untrusted(path, mmap)
    try:
        return checkpoint.read_untrusted(path)
    except CheckpointError:  # in words of the unpickler
        what = "neither a checkpoint nor plain weights that torch.save has written"
        raise CheckpointError(f"{path} is {what}") from None


def _safetensors(path: Path) -> State:
    try:
        from safetensors.torch import load_file
    except ImportError:
        what = "safetensors is not installed: pip install safetensors"
        raise CheckpointError(f"{path} cannot be read: {what}") from None
    try:
        return load_file(path)
    except Exception as error:  # whatever its reader trips over, the file is what is wrong
        raise CheckpointError(f"{path} cannot be read: {error}") from None


def _weights(state: Any, path: Path) -> State:
    """The weights in what a file holds."""
    if _is_weights(state):
        return dict(state)
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, and no weights by name")
    for key in _KEYS:
        if _is_weights(state.get(key)):
            return dict(state[key])
    keys = ", ".join([repr(key) for key in list(state)[:10]])
    raise CheckpointError(f"{path} holds no weights under {', '.join(_KEYS)}; it has {keys}")


def _is_weights(value: Any) -> bool:
    """Whether it is what `module.state_dict()` gives; what is no tensor in it is an extra state."""
    if not isinstance(value, dict) or not value:
        return False
    for name, each in value.items():
        if not isinstance(name, str):
            return False
        if not isinstance(each, torch.Tensor) and not name.endswith("_extra_state"):
            return False
    return True


def without_prefixes(saved: State, names: set[str]) -> State:
    """The weights without what other programs put before the names, where a network's are without.

    Args:
        saved: the weights.
        names: of the network's.
    """
    best = saved
    candidates = [saved]
    for _ in _PREFIXES:
        shorter = []
        for candidate in candidates:
            shorter += [_shorter(candidate, prefix) for prefix in _PREFIXES]
        candidates = [each for each in shorter if each]
        for candidate in candidates:
            if len(names & candidate.keys()) > len(names & best.keys()):
                best = candidate
    return best


def _shorter(weights: State, prefix: str) -> State:
    """Weights of which some begin with a prefix, without it; nothing if none do."""
    if not any(name.startswith(prefix) for name in weights):
        return {}
    shorter = {name.removeprefix(prefix): value for name, value in weights.items()}
    if len(shorter) < len(weights):  # two would have one name
        return {}
    return shorter
