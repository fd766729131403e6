"""Reading images: each file once, checked once, kept within bounds.

A prepared tensor stays on the disk, mapped into memory; a decoded or turned image is kept in a cache that is
bounded in bytes. What is handed out here is shared and must not be written to.
"""

import logging
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from neurocnn.data import nifti, prepared
from neurocnn.data.layout import Source
from neurocnn.data.orientation import Turn, orientation_of, turn_between
from neurocnn.errors import ImageError

logger = logging.getLogger("neurocnn")

Affine = np.ndarray[Any, np.dtype[np.float64]]
_MAPPED_FILES = 4096  # far below the kernel's limit of mapped areas


class Cache:
    """The images used last, at most so many bytes of them and so many of them."""

    def __init__(self, n_bytes: int, n_images: int) -> None:
        self.n_bytes = n_bytes
        self.n_images = n_images
        self.held = 0
        self._images: OrderedDict[Source, Tensor] = OrderedDict()

    def get(self, source: Source) -> Tensor | None:
        """The image, now the one used last, or None."""
        if source in self._images:
            self._images.move_to_end(source)
            return self._images[source]
        return None

    def put(self, source: Source, image: Tensor) -> None:
        """Keep an image, and let go of the ones that were not used for longest."""
        info = get_worker_info()
        limit = self.n_bytes // (info.num_workers if info is not None else 1)
        if image.nbytes > limit:
            return
        self._images[source] = image
        self.held += image.nbytes
        while self.held > limit or len(self._images) > self.n_images:
            self.held -= self._images.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Let go of all images."""
        self._images.clear()
        self.held = 0


class Images:
    """Reads images and remembers what it has seen of each cohort.

    Parameters
    ----------
    orientation
        To which images are turned, such as ``"RAS"``; None: as in the file.
    nan_voxels
        ``"error"`` or ``"zero"``.
    cache_bytes
        How much memory decoded images may take, shared by the workers of a data loader.
    """

    def __init__(self, orientation: str | None, nan_voxels: str, cache_bytes: int) -> None:
        self.orientation = orientation
        self.nan_voxels = nan_voxels
        self.cache_bytes = cache_bytes
        # Of the first image seen of each cohort; what the others are compared to.
        self.first: dict[str | None, tuple[tuple[int, int, int], str | None, str]] = {}
        self.forget()

    def forget(self) -> None:
        """Let go of everything that stands for files, which may have changed."""
        self.decoded = Cache(self.cache_bytes, n_images=_MAPPED_FILES)
        self.mapped = Cache(2**62, n_images=_MAPPED_FILES)
        self.headers: dict[Source, tuple[tuple[int, int, int], Affine | None, Turn]] = {}
        self.checked: dict[Path, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A worker gets the settings and what is known of the cohorts, not the caches.
        kept = ("orientation", "nan_voxels", "cache_bytes", "first")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    def header(self, source: Source, cohort: str | None) -> tuple[tuple[int, int, int], Affine | None, Turn]:
        """Shape and affine after turning, and the turn; the affine is None where there is no NIfTI.

        Raises
        ------
        ImageError
            The image is unlike the others of its cohort.
        """
        if source not in self.headers:
            if source.nifti is None:
                shape, affine, turn = self._tensor_shape(source), None, Turn()
                found = None
            else:
                head = nifti.read_header(source.nifti, source.what)
                found = orientation_of(head.affine)
                turn = turn_between(found, self.orientation) if self.orientation else Turn()
                shape, affine = turn.shape(head.shape), turn.affine(head.affine, head.shape)
            self._compare(source, cohort, shape, found)
            self.headers[source] = (shape, affine, turn)
        return self.headers[source]

    def image(self, source: Source, cohort: str | None) -> Tensor:
        """The image (1, D, H, W) float32, turned and finite; shared, not to be written to."""
        for cache in (self.mapped, self.decoded):
            image = cache.get(source)
            if image is not None:
                return image
        _, _, turn = self.header(source, cohort)
        mapped = self.prepared(source)
        raw = mapped if mapped is not None else self._decode(source)
        image = turn.image(self._finite(raw, source.what))
        if mapped is not None and image.untyped_storage().data_ptr() == mapped.untyped_storage().data_ptr():
            self.mapped.put(source, image)
        else:
            image = image.contiguous()
            self.decoded.put(source, image)
        return image

    def prepared(self, source: Source) -> Tensor | None:
        """The prepared tensor of the whole image in the file's order, mapped; None if there is none to use."""
        path = source.tensor
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_size, status.st_mtime_ns)
        verify = self.checked.get(path) != stamp
        image = prepared.open_prepared(path, source.what, verify=verify)
        if image.dim() != 4 or image.shape[0] != 1:
            raise ImageError(
                f"{source.what}: {path} holds the shape {tuple(image.shape)}, expected (1, D, H, W)"
            )
        if verify and source.nifti is not None and not self._fresh(image, path, source, source.nifti):
            logger.warning(
                "%s: the prepared tensor %s is not made of %s as it is now, so that the NIfTI file is decoded; "
                "caps.prepare() makes the tensor anew", source.what, path, source.nifti
            )  # fmt: skip
            return None
        self.checked[path] = stamp
        return image

    def _fresh(self, image: Tensor, path: Path, source: Source, file: Path) -> bool:
        """Whether a prepared tensor holds what the NIfTI would give."""
        if tuple(image.shape[1:]) != nifti.read_header(file, source.what).shape:
            return False
        origin = prepared.read_origin(path)
        if origin is not None and origin.source == prepared.fingerprint(file):
            return True
        if origin is None and path.stat().st_mtime_ns >= file.stat().st_mtime_ns:
            return True  # another program's, made after the NIfTI
        voxels, _ = nifti.read_voxels(file, source.what)
        return torch.equal(torch.nan_to_num(voxels), torch.nan_to_num(image))

    def _decode(self, source: Source) -> Tensor:
        if source.nifti is None:
            raise ImageError(f"{source.what}: there is neither a NIfTI file nor a prepared tensor")
        return nifti.read_voxels(source.nifti, source.what)[0]

    def _tensor_shape(self, source: Source) -> tuple[int, int, int]:
        if self.orientation is not None:
            raise ImageError(
                f"{source.what}: there is only a prepared tensor, which does not say where its axes point to; "
                f"it cannot be turned to orientation={self.orientation!r}"
            )
        image = self.prepared(source)
        assert image is not None
        first, second, third = image.shape[1:]
        return (first, second, third)

    def _compare(
        self, source: Source, cohort: str | None, shape: tuple[int, int, int], orientation: str | None
    ) -> None:
        expected, pointing, example = self.first.setdefault(cohort, (shape, orientation, source.what))
        if shape != expected:
            raise ImageError(
                f"{source.what}: the shape is {shape}, unlike the rest of the cohort: {example} has {expected}; "
                "all images must come from the same preprocessing"
            )
        if self.orientation is None and orientation is not None and pointing is not None:
            if orientation != pointing:
                raise ImageError(
                    f"{source.what}: the axes point to {orientation}, unlike the rest of the cohort: {example} has "
                    f'{pointing}; turn all images with Caps(..., orientation="RAS")'
                )
        elif pointing is None and orientation is not None:
            self.first[cohort] = (expected, orientation, source.what)

    def _finite(self, image: Tensor, what: str) -> Tensor:
        low, high = torch.aminmax(image)
        if torch.isfinite(low) and torch.isfinite(high):
            if low == high:
                logger.warning("%s: all voxels are %s; min-max gives zeros", what, low.item())
            return image
        wrong = ~torch.isfinite(image)
        where = tuple(wrong[0].nonzero()[0].tolist())
        found = f"{what}: {int(wrong.sum())} voxels are NaN or infinite, the first at {where}"
        if self.nan_voxels == "error":
            raise ImageError(
                f'{found}; run Clinica again, or read them as zeros: Caps(..., nan_voxels="zero")'
            )
        warnings.warn(f"{found}; they are read as zeros", stacklevel=2)
        return image.masked_fill(wrong, 0.0)
