"""Weights that are not trained, which a checkpoint may leave out: its reader makes them again.

They are known by the SHA-256 of each. What the run itself has changed of them, such as an average
of other weights, is in the file all the same.
"""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from machinery.checkpoints.file import Content
from machinery.checkpoints.parts import Held
from machinery.checkpoints.structure import bytes_of, pieces
from machinery.errors import CheckpointError
from machinery.update.runtime import full

State = dict[str, Any]
#: SHA-256 of weights, by name.
Digests = dict[str, str]
#: What the network of a trainer is called among its parts.
MODEL = "model"
#: So many names are told.
_NAMED = 10


def networks_of(held: Held) -> dict[str, nn.Module]:
    """All networks by name."""
    found = {MODEL: held.model}
    for name, part in held.parts.items():
        if isinstance(part, nn.Module):
            found[name] = part
    return found


def untrained(network: nn.Module) -> set[str]:
    """The names of the weights that are not trained; one of several names has them all."""
    found = set()
    for name, weight in network.named_parameters(remove_duplicate=False):
        if not weight.requires_grad and not is_lazy(weight) and not weight.is_meta:
            found.add(name)
    return found


def digests(network: nn.Module) -> Digests:
    """The SHA-256 of each weight that is not trained."""
    return _digests_in(network.state_dict(), network)


def _digests_in(state: State, network: nn.Module) -> Digests:
    """The SHA-256 of each weight in a state that a network does not train."""
    names = untrained(network)
    found = {}
    for name, value in state.items():
        if name in names:
            found[name] = digest(value)
    return found


def digest(weight: torch.Tensor) -> str:
    """The SHA-256 of a weight: of its type, its shape and its values.

    Of one that is shared out over processes, all have to ask.
    """
    weight = full(weight.detach())
    sha256 = hashlib.sha256(f"{weight.dtype} {list(weight.shape)}".encode())
    for piece in pieces(weight):
        sha256.update(bytes_of(piece).numpy().data)
    return sha256.hexdigest()


def left_out(content: Content, held: Held, built: Mapping[str, Digests]) -> Content:
    """The content of a checkpoint without the weights that are not trained, and are as built.

    Args:
        content: the whole.
        held: what the trainer holds.
        built: of its networks, by name: the weights that were not trained when it was built.
    """
    weights = content["state_dict"]
    states = dict(content["states"])
    frozen = {}
    for name, network in networks_of(held).items():
        before = built.get(name, {})
        state = _state_in(content, name, network)
        found = {}
        for weight, value in _digests_in(state, network).items():
            if before.get(weight) == value:
                found[weight] = value
        if found and name == MODEL:
            weights = _without(state, found)
        elif found:
            states[name] = _without(states[name], found)
        if found:
            frozen[name] = found
    less = copy.copy(content)
    less["state_dict"] = weights
    less["states"] = states
    if frozen:
        less["frozen"] = frozen
    return less


def _state_in(content: Content, name: str, network: nn.Module) -> State:
    """The state of a network in a checkpoint: whole, also of one that is shared out.

    Of a DataParallel of the user's it has a prefix there; without it, it is the network's own.
    """
    if name != MODEL:
        return content["states"][name]
    own = network.state_dict()
    if content["state_dict"].keys() == own.keys():
        return content["state_dict"]
    return own


def _without(state: State, names: Mapping[str, str]) -> State:
    """A network's state without some weights."""
    less = copy.copy(state)  # which keeps what torch has noted on it
    for name in names:
        del less[name]
    return less


def leaves_out(content: Content) -> bool:
    """Whether a checkpoint has not all weights of its networks."""
    return bool(content.get("frozen"))


def complete(content: Content, networks: Mapping[str, nn.Module], path: Path) -> None:
    """Put into the content of a checkpoint the weights that it leaves out: those of networks.

    Args:
        content: which is changed.
        networks: by name, as they were built; those that are not there are left as they are.
        path: of the checkpoint.

    Raises:
        CheckpointError: they are others than those of the run.
    """
    frozen = content.get("frozen", {})
    for name in list(frozen):
        if name not in networks:
            continue
        own = networks[name].state_dict()
        _check(content, name, own, path)
        if name == MODEL:
            content["state_dict"] = _whole(content["state_dict"], own, frozen[name])
        else:
            content["states"][name] = _whole(content["states"][name], own, frozen[name])
        del frozen[name]


def _check(content: Content, network: str, own: State, path: Path) -> None:
    """Refuse weights of a network that are others than those that the checkpoint leaves out."""
    others = []
    for weight, wanted in content["frozen"][network].items():
        if weight not in own or digest(own[weight]) != wanted:
            others.append(weight)
    if not others:
        return
    shown = ", ".join(others[:_NAMED])
    if len(others) > _NAMED:
        shown += ", …"
    what = f"{path} leaves out the weights that are not trained: {come_from(content, network)}"
    raise CheckpointError(f"{what}\n  others than in the run, or missing: {network}: {shown}")


def come_from(content: Content, network: str = MODEL) -> str:
    """Where the weights come from that a checkpoint leaves out."""
    arch: Any = content["config"].get("arch")
    file = None
    if network == MODEL and isinstance(arch, dict):
        file = arch.get("weights")
    if file is None:
        return f"they come from building {network} again"
    return f"they come from arch.weights: {file}"


def _whole(saved: State, own: State, names: Mapping[str, str]) -> State:
    """A state with the weights that it leaves out, in the order that the network has."""
    whole = copy.copy(saved)
    whole.clear()
    for name, value in own.items():
        if name in saved:
            whole[name] = saved[name]
        elif name in names:
            whole[name] = value
    for name in saved:
        whole.setdefault(name, saved[name])
    return whole
