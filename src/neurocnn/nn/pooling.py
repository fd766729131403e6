"""Max pooling that loses no voxel at an odd border, and its way back."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _tuple(value: int | tuple[int, ...], n: int) -> tuple[int, ...]:
    return (value,) * n if isinstance(value, int) else tuple(value)


def scatter_maxima(values, indices, size):
    out = values.new_zeros(*values.shape[:2], torch.Size(size).numel())
    return out.scatter(2, indices.flatten(2), values.flatten(2)).unflatten(2, tuple(size))


class _PadMaxPool(nn.Module):
    def __init__(self, kernel_size, stride=None, return_indices=False, return_pad=False):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.return_indices = return_indices
        self.return_pad = return_pad

    def set_new_return(self, return_indices=True, return_pad=True):
        self.return_indices = return_indices
        self.return_pad = return_pad

    def forward(self, f_maps):
        out, indices, flat = self.pool(f_maps)
        result = (out,)
        if self.return_indices:
            result += (indices,)
        if self.return_pad:
            result += (flat,)
        return result if len(result) > 1 else out

    def pool(self, f_maps):
        n = self._n
        stride = _tuple(self.stride, n)
        pads = [-f_maps.size(i + 2) % stride[i] for i in range(n)]
        flat = tuple(v for p in reversed(pads) for v in (p, 0))
        pool = F.max_pool2d if n == 2 else F.max_pool3d
        out, indices = pool(F.pad(f_maps, flat), self.kernel_size, self.stride, return_indices=True)
        return out, indices, flat


class PadMaxPool2d(_PadMaxPool):
    _n = 2


class PadMaxPool3d(_PadMaxPool):
    _n = 3


class _CropMaxUnpool(nn.Module):
    def __init__(self, kernel_size, stride=None):
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride

    def forward(self, f_maps, indices, padding=None):
        n = self._n
        k, s = _tuple(self.kernel_size, n), _tuple(self.stride, n)
        size = [s[i] * (f_maps.size(i + 2) - 1 + -(-k[i] // s[i])) for i in range(n)]
        out = f_maps.new_zeros(*f_maps.shape[:2], int(torch.Size(size).numel()))
        out = out.scatter(2, indices.flatten(2), f_maps.flatten(2)).unflatten(2, size)
        if padding is not None:
            out = out[(..., *(slice(padding[2 * (n - 1 - i)], None) for i in range(n)))]
        return out


class CropMaxUnpool2d(_CropMaxUnpool):
    _n = 2


class CropMaxUnpool3d(_CropMaxUnpool):
    _n = 3
