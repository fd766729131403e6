"""Writing of missing prepared tensors in parallel, for `ImageSet.prepare`."""

import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOSPC
from pathlib import Path

from neurocnn.data.decoding import decode
from neurocnn.data.part_files import StorableParts, check_storable, part_path, write_parts
from neurocnn.data.parts import Parts
from neurocnn.data.reader import ImageReader
from neurocnn.data.sources import Source, check_readable
from neurocnn.data.tensor_files import Origin, nifti_stamp, write_prepared
from neurocnn.errors import ImageError, NeurocnnError, StorageError
from neurocnn.errors.arguments import check_integer
from neurocnn.errors.logger import LOGGER
from neurocnn.storage.files import remove_leftovers
from neurocnn.storage.locks import hold
from neurocnn.storage.memory import size_text

_LOCK = ".prepare.lock"
# A file has this many bytes in addition to its voxels.
_OVERHEAD = 2048


def prepare_images(images: ImageReader, sources: Sequence[Source], parts: Parts, n_workers: int) -> None:
    """Write the prepared tensors of images; see `ImageSet.prepare`."""
    check_integer("n_workers", n_workers, minimum=0, where="prepare")
    storable = None if parts.name == "image" else check_storable(images, sources, parts)
    _check_disk(images, sources, storable)
    with _lock_and_remove_leftovers(images, sources, storable):
        _prepare(images, sources, storable, n_workers)


@contextmanager
def _lock_and_remove_leftovers(
    images: ImageReader, sources: Sequence[Source], parts: StorableParts | None
) -> Iterator[None]:
    """Lock each folder of images until the block ends, and remove the temporary files of killed processes."""
    files: dict[Path, list[Path]] = {}
    for source in sources:
        # The error of this image is raised after the other images are prepared.
        with suppress(NeurocnnError):
            files.setdefault(source.root, []).extend(_file_sizes(images, source, parts))
    with ExitStack() as locks:
        for root in sorted(files):
            # A read-only folder cannot be locked. This is not an error if all tensors exist; otherwise writing fails
            # later.
            with suppress(StorageError):
                lock = locks.enter_context(hold(root / _LOCK, f"the prepared tensors of {root}", wait=True))
                remove_leftovers(lock, *files[root])
        yield


def _prepare(
    images: ImageReader, sources: Sequence[Source], storable: StorableParts | None, n_workers: int
) -> None:
    """Write the missing files of all images, in parallel threads."""
    from tqdm import tqdm

    failed: list[str] = []
    # Threads are sufficient, because decompressing, copying and writing release the interpreter lock.
    pool = ThreadPoolExecutor(max(1, n_workers))
    try:
        futures = {pool.submit(_prepare_image, images, source, storable): source for source in sources}
        for future in tqdm(as_completed(futures), total=len(futures), desc="prepare", disable=None):
            try:
                future.result()
            except NeurocnnError as error:
                # An error while writing ends the call, because writing the next image would fail too.
                if isinstance(error, StorageError) and error.filename != str(futures[future].nifti):
                    raise
                failed.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise ImageError(
            f"{len(failed)} of {len(sources)} images could not be prepared; the others are prepared:\n"
            + "\n".join(sorted(failed))
        )


def _prepare_image(images: ImageReader, source: Source, parts: StorableParts | None) -> None:
    check_readable(source)
    images.grid(source)
    if parts is not None:
        write_parts(images, source, parts)
        return
    try:
        if images.prepared_tensor(source) is not None:
            return
    except ImageError:
        if source.nifti is None:
            raise
        LOGGER.warning(
            "%s: the prepared tensor %s is damaged; writing it again", source.name, source.tensor_path
        )
    assert source.nifti is not None
    image = decode(source)
    # `finite` is called for its error: invalid voxels are reported now, not during training.
    images.finite(image, source)
    write_prepared(image, source.tensor_path, Origin(nifti_stamp(source.nifti)))


def _check_disk(images: ImageReader, sources: Sequence[Source], parts: StorableParts | None) -> None:
    """Log the required disk space, and raise a StorageError before anything is written if less is free."""
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    n_files = 0
    for source in sources:
        try:
            sizes = [size for path, size in _file_sizes(images, source, parts).items() if not path.is_file()]
        except NeurocnnError:
            # The error of this image is raised after the other images are prepared.
            continue
        device = source.session_folder.stat().st_dev
        folders.setdefault(device, source.session_folder)
        needed[device] = needed.get(device, 0) + sum(sizes)
        n_files += len(sizes)
    for device, n_bytes in needed.items():
        free = shutil.disk_usage(folders[device]).free
        LOGGER.info(
            "preparing %d images: %d files are missing and will take %s; %s are free",
            len(sources), n_files, size_text(n_bytes), size_text(free),
        )  # fmt: skip
        if n_bytes > free:
            message = f"preparing takes {n_bytes} bytes, but only {free} bytes of the disk are free; free disk space"
            raise StorageError(ENOSPC, message, str(folders[device]))


def _file_sizes(images: ImageReader, source: Source, parts: StorableParts | None) -> dict[Path, int]:
    """Return the path and the size in bytes of each prepared tensor of an image."""
    if parts is None:
        if source.nifti is None:
            return {}
        # Only the first header of a cohort is read, because all its images have the same shape.
        grid = images.first[source.cohort][0] if source.cohort in images.first else images.grid(source)
        return {source.tensor_path: 4 * math.prod(grid.shape) + _OVERHEAD}
    shape, channels = images.grid(source).shape, getattr(parts, "channels", 1)
    n_voxels = {
        part_id: math.prod(axis.stop - axis.start for axis in parts.place(shape, part_id))
        for part_id in parts.ids(shape)
    }
    return {
        part_path(source, parts, part_id): 4 * n * channels + _OVERHEAD for part_id, n in n_voxels.items()
    }
