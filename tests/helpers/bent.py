"""Trainers that bend the template: a GAN, and batches that are dicts."""

import tiny
from bending.dicts import dict_accuracy, dict_loss
from bending.gan import Generator, spread


def gan(folder, **kwargs):
    config = tiny.settings(
        folder,
        arch={"type": "Generator", "args": {}},
        metrics=["spread"],
        trainer__monitor="min val_spread",
        data_loader__args={"kind": "whole"},
    )
    tiny.Generator, tiny.spread = Generator, spread
    Generator.__module__ = spread.__module__ = "tiny"
    return tiny.build(config, **kwargs)


def dicts(folder, **kwargs):
    config = tiny.settings(
        folder,
        loss="dict_loss",
        metrics=["dict_accuracy"],
        trainer__monitor="min val_cross_entropy",
        trainer__accumulate=2,
        data_loader__args={"kind": "dicts"},
    )
    tiny.dict_accuracy, tiny.dict_loss = dict_accuracy, dict_loss
    dict_accuracy.__module__ = dict_loss.__module__ = "tiny"
    return tiny.build(config, **kwargs)
