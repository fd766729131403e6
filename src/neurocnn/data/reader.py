"""Reader of images, which decodes and checks each image once, and keeps it in a cache.

Prepared tensors are mapped into memory, other images are decoded; a cache of limited size keeps both. Returned images
are shared and must not be written to. If several threads read an image, one thread opens and checks it. A copy of the
reader in another process (a worker of a data loader) starts with empty caches.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocnn.data import nifti
from neurocnn.data.cache import Cache, lock_of
from neurocnn.data.decoding import decode, is_up_to_date
from neurocnn.data.fingerprints import file_stamp
from neurocnn.data.memory_order import bounds_of, copy_voxels
from neurocnn.data.orientation import Grid, known_affine, orientation_of
from neurocnn.data.sources import Source, check_readable
from neurocnn.data.tensor_files import open_prepared
from neurocnn.errors import ImageError, NeurocnnError
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import storage_errors


class ImageReader:
    """Reader of images, which compares each image with the first image of its cohort.

    Parameters
    ----------
    orientation
        Orientation of the returned images, such as ``"RAS"``; None for the orientation of the file.
    nan_voxels
        Treatment of NaN and infinite voxels: ``"error"`` or ``"zero"``.
    cache_bytes
        Memory for decoded and mapped images, shared equally among the workers of a data loader.
    """

    def __init__(self, orientation: str | None, nan_voxels: str, cache_bytes: int) -> None:
        self.orientation = orientation
        self.nan_voxels = nan_voxels
        self.cache_bytes = cache_bytes
        # Grid and name of the first image of each cohort, with which its other images are compared.
        self.first: dict[str | None, tuple[Grid, str]] = {}
        self.warned: set[tuple[str | None, str]] = set()
        self.generation = 0
        self.clear()

    def clear(self) -> None:
        """Clear all caches, and increase `generation`, so that other objects discard values of the old files."""
        self._cache = Cache(self.cache_bytes)
        self._grids: dict[Source, Grid] = {}
        self._usable: dict[Path, tuple[tuple[int, ...], bool]] = {}
        self._reported: set[Source] = set()
        self._stamps: dict[Source, tuple[int, ...]] = {}
        self._bounds: dict[Source, tuple[float, float]] = {}
        self.generation += 1

    def __getstate__(self) -> dict[str, Any]:
        kept = ("orientation", "nan_voxels", "cache_bytes", "first", "warned", "generation")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.clear()

    def grid(self, source: Source) -> Grid:
        """Return the voxel grid of an image after reorientation. Only the header is read.

        Raises
        ------
        ImageError
            If the header is invalid, or the image differs from the other images of its cohort.
        """
        if source not in self._grids:
            with storage_errors(source.session_folder, f"read {source.name}"):
                grid = self.grid_without_comparison(source)
            self._compare_with_cohort(source, grid)
            self._grids[source] = grid
        return self._grids[source]

    def grid_without_comparison(self, source: Source) -> Grid:
        """Return the voxel grid of an image, without comparing it with the cohort. Only the header is read."""
        if source.nifti is None:
            shape = self._tensor_shape(source)
            return Grid(shape, known_affine(source.stem, shape))
        header = nifti.read_header(source.nifti, source.name)
        grid = Grid(header.shape, header.affine, is_oriented=header.is_oriented)
        if not grid.is_oriented:
            found = f"{source.name}: {source.nifti}: sform_code=0, qform_code=0: the directions of its axes are unknown"
            if self.orientation is not None:
                expected = f"a code above 0 for orientation={self.orientation!r}"
                raise ImageError(f"{found}; expected {expected}; correct the header, or use orientation=None")
            self.warn_once(source.cohort, "orientation code", f"{found}; the file's order of voxels is used")
        return grid.reoriented(self.orientation)

    def check_files(self, sources: Iterable[Source]) -> None:
        """Check that the files of images can be read, and warn if images of a cohort have different affines.

        Only headers are read. Invalid headers are reported later, when the image is read.

        Raises
        ------
        NotFoundError, StorageError, ImageError
            If files cannot be read. The message lists all of them; the type of the error is that of the first problem.
        """
        problems: list[NeurocnnError] = []
        for source in sources:
            self._clear_if_replaced(source)
            if source in self._grids:
                continue
            with suppress(NeurocnnError):
                if source.nifti is not None:
                    self.grid(source)
                    continue
            try:
                check_readable(source)
            except NeurocnnError as error:
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            message = f"{len(problems)} images cannot be read:\n" + "\n".join(map(str, problems))
            raise type(problems[0])(message)

    def _clear_if_replaced(self, source: Source) -> None:
        """Clear the caches if the file of an image was replaced since the last check."""
        with suppress(OSError):
            stamp = file_stamp(source.nifti if source.nifti is not None else source.tensor_path)
            if self._stamps.get(source, stamp) != stamp:
                self.clear()
                self.first.clear()
            self._stamps[source] = stamp

    def image(self, source: Source) -> Tensor:
        """Return the image (1, D, H, W), float32, reoriented and finite. The image is shared: do not write to it.

        Raises
        ------
        ImageError
            If the image is damaged, has NaN or infinite voxels, or differs from the other images of its cohort.
        """
        if (cached := self.cached(source)) is not None:
            return cached
        with lock_of(source):
            return self._open(source) if (cached := self.cached(source)) is None else cached

    def _open(self, source: Source) -> Tensor:
        grid = self.grid(source)
        with storage_errors(source.session_folder, f"read {source.name}"):
            mapped = self.prepared_tensor(source)
        voxels = mapped if mapped is not None else decode(source)
        # If the bounds are known, the tensor was checked before it was removed from the cache.
        if mapped is None or source not in self._bounds:
            voxels, bounds = self.finite(voxels, source)
            if bounds[0] == bounds[1] and source not in self._reported:
                self._reported.add(source)
                LOGGER.warning("%s: all voxels are %s; MinMax returns zeros", source.name, bounds[0])
            if voxels is mapped or self.nan_voxels == "error":
                self._bounds[source] = bounds
        image = grid.reorient(voxels)
        if image.shape[1:] != grid.shape:
            found = f"{source.name}: shape={tuple(image.shape[1:])}, but it was {grid.shape} when it was first read"
            raise ImageError(f"{found}; expected files that do not change while they are in use; start again")
        if image is mapped and image.stride(-1) != 1 and self._cache.has_room(image):
            # A tensor of another program, whose first axis is contiguous, is read several times faster from this copy.
            image = copy_voxels(image)
        # Files of torch before 1.6 cannot be mapped; torch reads them into resizable memory.
        self._cache.put(source, image, mapped=image is mapped and not image.untyped_storage().resizable())
        return image

    def bounds(self, source: Source) -> tuple[float, float] | None:
        """Return the smallest and largest voxel of an image, or None if the image was not read yet."""
        return self._bounds.get(source)

    def cached(self, source: Source) -> Tensor | None:
        """Return the image if it is in the cache, else None."""
        return self._cache.get(source)

    def prepared_tensor(self, source: Source) -> Tensor | None:
        """Return the complete image's memory-mapped tensor, with the axes as in the file; None if it cannot be used.

        Raises
        ------
        ImageError
            If the tensor is damaged, unsafe, or not of the shape (1, D, H, W).
        """

        def is_current(image: Tensor) -> bool:
            if image.dim() != 4 or image.shape[0] != 1 or not image.numel():
                raise ImageError(
                    f"{source.name}: {source.tensor_path}: shape={tuple(image.shape)}; expected (1, D, H, W)"
                )
            if source.nifti and image.shape[1:] != nifti.read_header(source.nifti, source.name).shape:
                return False
            return is_up_to_date(image, source.tensor_path, source, decode)

        return self.open_if_current(source, source.tensor_path, is_current)

    def open_if_current(
        self, source: Source, path: Path, is_current: Callable[[Tensor], bool], *, mmap: bool = True
    ) -> Tensor | None:
        """Return a prepared tensor, or None if it is missing or outdated.

        The tensor is checked when it is first read, and again if the file changes.

        Parameters
        ----------
        source
            Image from which the tensor was created.
        path
            Path of the tensor's file.
        is_current
            ``is_current(tensor)`` returns whether the tensor is up to date.
        mmap
            Whether to map the file into memory instead of reading it.
        """
        try:
            stamp = file_stamp(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        checked, usable = self._usable.get(path, (None, False))
        if checked == stamp:
            return open_prepared(path, source.name, verify=False, mmap=mmap) if usable else None
        if checked is not None:
            # The file changed while it was in use, so the known bounds are outdated.
            self._bounds.pop(source, None)
            self.generation += 1
        tensor = open_prepared(path, source.name, verify=True, mmap=mmap)
        usable = is_current(tensor)
        self._usable[path] = (stamp, usable)
        if not usable:
            LOGGER.warning(
                "%s: the prepared tensor %s is ignored: it differs from the image, which has changed; "
                "write it again with caps.prepare()",
                source.name, path,
            )  # fmt: skip
        return tensor if usable else None

    def finite(self, image: Tensor, source: Source) -> tuple[Tensor, tuple[float, float]]:
        """Return an image without NaN and infinite voxels, and its smallest and largest voxel.

        NaN and infinite voxels become zeros or raise an error, depending on `nan_voxels`.
        """
        low, high = bounds_of(image)
        if math.isfinite(low) and math.isfinite(high):
            return image, (low, high)
        wrong = ~torch.isfinite(image)
        first = tuple(wrong.nonzero()[0].tolist()[1:])
        found = f"{source.name}: {int(wrong.sum())} voxels are NaN or infinite, the first at {first}"
        if self.nan_voxels == "error":
            raise ImageError(f'{found}; run Clinica again, or read them as zeros with nan_voxels="zero"')
        if source not in self._reported:
            self._reported.add(source)
            warnings.warn(f"{found}; they are read as zeros", stacklevel=2)
        return self.finite(image.masked_fill(wrong, 0.0), source)

    def _tensor_shape(self, source: Source) -> tuple[int, int, int]:
        if self.orientation is not None:
            raise ImageError(
                f"{source.name}: orientation={self.orientation!r}, but there is only a prepared tensor, which "
                "has no orientation; expected a NIfTI file, or orientation=None"
            )
        image = self.prepared_tensor(source)
        if image is None:
            raise ImageError(f"{source.name}: {source.tensor_path}: the tensor was removed; restore it")
        first, second, third = image.shape[1:]
        return (first, second, third)

    def _compare_with_cohort(self, source: Source, grid: Grid) -> None:
        first, example = self.first.setdefault(source.cohort, (grid, source.name))
        if grid.shape != first.shape:
            raise ImageError(
                f"{source.name}: shape={grid.shape}, unlike the rest of the cohort: {example} has {first.shape}; "
                "use only images of one preprocessing"
            )
        if first.affine is None or not first.is_oriented:
            self.first[source.cohort] = (grid, source.name)
        elif grid.affine is not None and grid.is_oriented:
            found, expected = orientation_of(grid.affine), orientation_of(first.affine)
            if found != expected:
                raise ImageError(
                    f"{source.name}: orientation={found}, unlike the rest of the cohort: {example} has {expected}; "
                    'reorient all images with orientation="RAS"'
                )
            if not grid.is_at(first):
                self.warn_once(source.cohort, "place", first.describe_difference(example, grid, source.name))

    def warn_once(self, cohort: str | None, topic: str, message: str) -> None:
        """Log a warning, but only once for each cohort and topic."""
        if (cohort, topic) not in self.warned:
            self.warned.add((cohort, topic))
            LOGGER.warning("%s", message)
