"""Settings that make the template's own config short, and where its runs are."""

import torchvision.datasets  # noqa: F401

SHORT = ["--set", "trainer.epochs=2", "--set", "trainer.len_epoch=6", "--bs", "32"]


def models(folder, run="one"):
    return folder / "saved" / "models" / "Digits_LeNet" / run
