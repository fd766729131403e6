"""Reading images: each file once, checked once, kept within bounds.

A prepared tensor stays on the disk, mapped into memory; a decoded or turned image is kept in a cache that is
bounded in bytes. What is handed out here is shared and must not be written to. A process that gets a copy (a
worker of a data loader) starts with empty caches.
"""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocnn.data import nifti
from neurocnn.data import prepare as prepared
from neurocnn.data.cache import Cache
from neurocnn.data.orientation import Turn, orientation_of, turn_between
from neurocnn.data.sources import Source
from neurocnn.errors import ImageError

logger = logging.getLogger("neurocnn")

Affine = np.ndarray[Any, np.dtype[np.float64]]
Shape3 = tuple[int, int, int]
_MAPPED_FILES = 4096  # far below the kernel's limit of mapped areas


class Images:
    """Reads images and remembers what it has seen of each cohort.

    Parameters
    ----------
    orientation
        To which images are turned, such as ``"RAS"``; None: as in the file.
    nan_voxels
        ``"error"`` or ``"zero"``.
    cache_bytes
        How much memory decoded images may take, shared out among the workers of a data loader.
    """

    def __init__(self, orientation: str | None, nan_voxels: str, cache_bytes: int) -> None:
        self.orientation = orientation
        self.nan_voxels = nan_voxels
        self.cache_bytes = cache_bytes
        # Shape, orientation and name of the first image seen of each cohort: what the others must be like.
        self.first: dict[str | None, tuple[Shape3, str | None, str]] = {}
        self.forget()

    def forget(self) -> None:
        """Let go of everything that stands for files, which may have changed."""
        self._decoded = Cache(self.cache_bytes, n_images=_MAPPED_FILES)
        self._mapped = Cache(2**62, n_images=_MAPPED_FILES)
        self._headers: dict[Source, tuple[Shape3, Affine | None, Turn]] = {}
        self._checked: dict[Path, tuple[tuple[int, int], bool]] = {}
        self._said: set[Source] = set()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("orientation", "nan_voxels", "cache_bytes", "first")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def header(self, source: Source, cohort: str | None) -> tuple[Shape3, Affine | None, Turn]:
        """Shape and affine after turning, and the turn; the affine is None where there is no NIfTI.

        Raises
        ------
        ImageError
            The header is wrong, or the image unlike the others of its cohort.
        """
        if source not in self._headers:
            affine, turn, pointing = None, Turn(), None
            if source.nifti is None:
                shape = self._tensor_shape(source)
            else:
                head = nifti.read_header(source.nifti, source.what)
                pointing = orientation_of(head.affine)
                turn = turn_between(pointing, self.orientation) if self.orientation else Turn()
                shape, affine = turn.shape(head.shape), turn.affine(head.affine, head.shape)
            self._compare(source, cohort, shape, pointing)
            self._headers[source] = (shape, affine, turn)
        return self._headers[source]

    def image(self, source: Source, cohort: str | None) -> Tensor:
        """The image (1, D, H, W) float32, turned and finite; shared, not to be written to.

        Raises
        ------
        ImageError
            It is damaged, not finite, or unlike the others of its cohort.
        """
        held = self.held(source)
        if held is not None:
            return held
        turn = self.header(source, cohort)[2]
        mapped = self.prepared(source)
        image = turn.image(self.finite(mapped if mapped is not None else decode(source), source))
        self._say_if_constant(image, source)
        if mapped is not None and image.untyped_storage().data_ptr() == mapped.untyped_storage().data_ptr():
            self._mapped.put(source, image)
        else:
            image = image.contiguous()
            self._decoded.put(source, image)
        return image

    def held(self, source: Source) -> Tensor | None:
        """The image if it is mapped or in the cache."""
        image = self._mapped.get(source)
        return image if image is not None else self._decoded.get(source)

    def prepared(self, source: Source) -> Tensor | None:
        """The prepared tensor of the whole image in the file's order, mapped; None if there is none to use.

        Raises
        ------
        ImageError
            It is damaged, unsafe, or of another shape.
        """
        return self.checked(source, source.tensor, lambda image: self._holds_the_nifti(image, source))

    def checked(self, source: Source, path: Path, fresh: Any, mmap: bool = True) -> Tensor | None:
        """A prepared tensor; what is in it is checked when it is first read, and again when it changes.

        Parameters
        ----------
        source
            Which image it is of.
        path
            The tensor's file.
        fresh
            Called with the tensor: whether it holds what it should.
        mmap
            Leave the bytes in the file until they are used.
        """
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        stamp = (status.st_size, status.st_mtime_ns)
        seen, usable = self._checked.get(path, (None, False))
        if seen == stamp:
            return prepared.open_prepared(path, source.what, verify=False, mmap=mmap) if usable else None
        tensor = prepared.open_prepared(path, source.what, verify=True, mmap=mmap)
        usable = fresh(tensor)
        self._checked[path] = (stamp, usable)
        if not usable:
            logger.warning(
                "%s: the prepared tensor %s does not hold what the image holds now, and is left aside; "
                "caps.prepare() makes it anew",
                source.what,
                path,
            )
        return tensor if usable else None

    def _holds_the_nifti(self, image: Tensor, source: Source) -> bool:
        if image.dim() != 4 or image.shape[0] != 1:
            raise ImageError(
                f"{source.what}: {source.tensor} holds the shape {tuple(image.shape)}, expected (1, D, H, W)"
            )
        if source.nifti is None:
            return True
        if tuple(image.shape[1:]) != nifti.read_header(source.nifti, source.what).shape:
            return False
        made = prepared.made_of(source.tensor, source.nifti)
        return made if made is not None else same_voxels(decode(source), image)

    def finite(self, image: Tensor, source: Source) -> Tensor:
        """The image without NaN and infinite voxels, or an error, as `nan_voxels` says."""
        low, high = torch.aminmax(image)  # NaN comes through
        if torch.isfinite(low) and torch.isfinite(high):
            return image
        wrong = ~torch.isfinite(image)
        where = tuple(wrong.nonzero()[0].tolist()[1:])
        found = f"{source.what}: {int(wrong.sum())} voxels are NaN or infinite, the first at {where}"
        if self.nan_voxels == "error":
            raise ImageError(
                f'{found}; run Clinica again, or read them as zeros: Caps(..., nan_voxels="zero")'
            )
        if source not in self._said:
            self._said.add(source)
            warnings.warn(f"{found}; they are read as zeros", stacklevel=2)
        return image.masked_fill(wrong, 0.0)

    def _say_if_constant(self, image: Tensor, source: Source) -> None:
        low, high = torch.aminmax(image)
        if low == high and source not in self._said:
            self._said.add(source)
            logger.warning("%s: all voxels are %s; min-max gives zeros", source.what, low.item())

    def _tensor_shape(self, source: Source) -> Shape3:
        if self.orientation is not None:
            raise ImageError(
                f"{source.what}: there is only a prepared tensor, which does not say where its axes point; "
                f"it cannot be turned to orientation={self.orientation!r}"
            )
        image = self.prepared(source)
        if image is None:
            raise ImageError(f"{source.what}: the prepared tensor {source.tensor} is gone")
        first, second, third = image.shape[1:]
        return (first, second, third)

    def _compare(self, source: Source, cohort: str | None, shape: Shape3, pointing: str | None) -> None:
        expected, usual, example = self.first.setdefault(cohort, (shape, pointing, source.what))
        if shape != expected:
            raise ImageError(
                f"{source.what}: the shape is {shape}, unlike the rest of the cohort: {example} has "
                f"{expected}; all images must come from the same preprocessing"
            )
        if usual is None and pointing is not None:
            self.first[cohort] = (expected, pointing, source.what)
        elif self.orientation is None and pointing not in (None, usual):
            raise ImageError(
                f"{source.what}: the axes point to {pointing}, unlike the rest of the cohort: {example} has "
                f'{usual}; turn all images to one orientation with Caps(..., orientation="RAS")'
            )


def decode(source: Source) -> Tensor:
    """The voxels of an image's NIfTI file, in the file's order."""
    if source.nifti is None:
        raise ImageError(f"{source.what}: there is neither a NIfTI file nor a prepared tensor")
    return nifti.read_voxels(source.nifti, source.what)[0]


def same_voxels(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same, but for the last bits of float32.

    Other programs scale whole numbers in float64 and round once more. What is not finite is no matter here:
    `Images.finite` looks after it.
    """
    first, second = torch.nan_to_num(first), torch.nan_to_num(second)
    largest = float(first.abs().max())
    return torch.allclose(first, second, rtol=1e-5, atol=1e-6 * largest)
