import numpy as np
import torch
from torch.utils.data import Dataset
from base import BaseDataLoader


class Rings(Dataset):
    """Two noisy rings; the noise is drawn anew at each access."""

    def __init__(self, n, train):
        state = np.random.RandomState(1 if train else 2)
        angle = state.uniform(0, 2 * np.pi, n)
        self.label = (np.arange(n) % 2).astype(np.float32)
        radius = 1 + self.label
        self.points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32)

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        noise = np.random.normal(0, 0.1, 2).astype(np.float32)
        return torch.from_numpy(self.points[index] + noise), torch.tensor(self.label[index])


class RingDataLoader(BaseDataLoader):
    def __init__(self, data_dir, batch_size, shuffle=True, validation_split=0.0, num_workers=1, training=True):
        self.data_dir = data_dir
        self.dataset = Rings(301, training)
        super().__init__(self.dataset, batch_size, shuffle, validation_split, num_workers)
