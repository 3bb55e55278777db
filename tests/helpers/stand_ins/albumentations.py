"""As much of albumentations as a page needs: transforms that take and return dicts, and hold
generators of their own."""

import random

import numpy as np
import torch


class BasicTransform:
    def __init__(self, p=1.0):
        self.p = p
        self.py_random = random.Random()

    def __call__(self, *, image):
        if self.py_random.random() < self.p:
            return {"image": self.apply(image)}
        return {"image": image}


class HorizontalFlip(BasicTransform):
    def __init__(self, p: float = 0.5):
        super().__init__(p)

    def apply(self, image):
        return image[:, ::-1]


class Resize(BasicTransform):
    def __init__(self, height: int, width: int, p: float = 1):
        super().__init__(p)
        self.size = height, width

    def apply(self, image):
        rows, columns = (np.arange(n) * image.shape[k] // n for k, n in enumerate(self.size))
        return image[rows][:, columns]


class ToFloat(BasicTransform):
    def __init__(self, max_value: float | None = None, p: float = 1.0):
        super().__init__(p)
        self.max_value = max_value

    def apply(self, image):
        return (image / self.max_value).astype(np.float32)


class ToTensorV2(BasicTransform):
    def apply(self, image):
        return torch.from_numpy(image.transpose(2, 0, 1).copy())


class Compose:
    def __init__(self, transforms: list, p: float = 1.0):
        self.transforms = transforms

    def __call__(self, *, image):
        for transform in self.transforms:
            image = transform(image=image)["image"]
        return {"image": image}
