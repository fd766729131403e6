"""Small datasets and networks whose behaviour is known."""

import itertools
import os
import random
import signal
import traceback

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.data import Dataset


class Toys(Dataset):
    """Dataset of images of two classes, ordered by image and then by part. Images of class 1 are brighter.

    With `noise`, samples draw from the global random states of Python, numpy and torch, as users' transforms do.
    """

    def __init__(
        self,
        n=12,
        parts=(0,),
        size=6,
        noise=False,
        labels=("CN", "AD"),
        prefix="sub",
        seed=0,
        dims=3,
        table=True,
    ):
        self.part_ids, self.noise = list(parts), noise
        self.all_parts = tuple(parts)
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand((n, len(parts), 1, *[size] * dims), generator=generator)
        self.labels = [labels[i % len(labels)] for i in range(n)]
        for i, label in enumerate(self.labels):
            self.images[i] += 0.3 * labels.index(label)
        self.people = [f"{prefix}-{i:02d}" for i in range(n)]
        self.opened = []
        if table:
            self.sessions = pd.DataFrame(
                {"participant_id": self.people, "session_id": "ses-M00", "diagnosis": self.labels}
            )

    def __len__(self):
        return len(self.people) * len(self.part_ids)

    def __getitem__(self, index):
        image, position = divmod(index, len(self.part_ids))
        part = self.part_ids[position]
        self.opened.append(image)
        voxels = self.images[image, self.all_parts.index(part)].clone()
        if self.noise:
            voxels += 0.1 * torch.rand(()) + 0.1 * random.random() + 0.1 * np.random.rand()
        return {
            "image": voxels,
            "label": self.labels[image],
            "participant_id": self.people[image],
            "session_id": "ses-M00",
            "part_id": part,
        }

    def only_part(self, part):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__ | {"part_ids": [part], "opened": []})
        return other

    def without_augmentation(self):
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__ | {"noise": False})
        return other


def network(seed=0, norm=True, dropout=0.0, size=6, dims=3):
    """Return a small network with batch norm and dropout, which depend on batches and random numbers."""
    torch.manual_seed(seed)
    conv, pool = (nn.Conv3d, nn.MaxPool3d) if dims == 3 else (nn.Conv2d, nn.MaxPool2d)
    norms = {3: nn.BatchNorm3d, 2: nn.BatchNorm2d}
    layers = [conv(1, 3, 3, padding=1)]
    if norm:
        layers.append(norms[dims](3))
    layers += [nn.ReLU(), pool(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(3 * (size // 2) ** dims, 2)]
    return nn.Sequential(*layers)


def same_weights(one, other):
    """Return whether two state dicts are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def in_child(function):
    """Run a function in a forked process, and return its exit status in the format of `os.wait`."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def die():
    """Kill this process, as the kernel does when memory is exhausted."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(name, number, after=False, counts=lambda *arguments: True):
    """Kill this process before or after the `number`-th call of a function of `os` that `counts`.

    Several threads write files, so each call takes its own number.
    """
    original, numbers = getattr(os, name), itertools.count(1)

    def deadly(*arguments, **named):
        is_last = counts(*arguments) and next(numbers) == number
        if is_last and not after:
            die()
        result = original(*arguments, **named)
        if is_last:
            die()
        return result

    setattr(os, name, deadly)
