"""caps.prepare: tensors that training memory-maps, written in parallel and only where they are missing."""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from neurocnn.data.images import Images, decode
from neurocnn.data.part_files import NamedParts, check_extractable, extract_parts, part_path
from neurocnn.data.parts import Parts
from neurocnn.data.prepare import Origin, fingerprint, write_prepared
from neurocnn.data.sources import Source
from neurocnn.errors import ImageError, NeurocnnError, SettingError, StorageError

logger = logging.getLogger("neurocnn")

Sources = Sequence[tuple[Source, str | None]]
_OVERHEAD = 2048  # bytes of a file beside its voxels


def prepare(images: Images, sources: Sources, parts: Parts, n_workers: int) -> None:
    """Write the prepared tensors of some images; see `Caps.prepare`."""
    from tqdm import tqdm

    if not isinstance(n_workers, int) or isinstance(n_workers, bool) or n_workers < 0:
        raise SettingError(f"n_workers is {n_workers!r}, expected a whole number, 0 or more")
    named = None if parts.name == "image" else check_extractable(images, sources, parts)
    _check_disk(images, sources, named)
    failed: list[str] = []
    # Threads: inflating, copying and writing let go of Python's lock.
    pool = ThreadPoolExecutor(max(1, n_workers))
    try:
        futures = [pool.submit(_prepare_one, images, source, cohort, named) for source, cohort in sources]
        for future in tqdm(as_completed(futures), total=len(futures), desc="prepare", disable=None):
            try:
                future.result()
            except StorageError:
                raise  # no fault of this image: the next would meet it too
            except NeurocnnError as error:
                failed.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    if failed:
        raise ImageError(
            f"{len(failed)} of {len(sources)} images could not be prepared, the others are:\n"
            + "\n".join(sorted(failed))
        )


def _prepare_one(images: Images, source: Source, cohort: str | None, parts: NamedParts | None) -> None:
    images.header(source, cohort)
    if parts is not None:
        extract_parts(images, source, cohort, parts)
        return
    try:
        if images.prepared(source) is not None:
            return
    except ImageError:
        if source.nifti is None:
            raise
        logger.warning("%s: the prepared tensor %s is damaged and made anew", source.what, source.tensor)
    assert source.nifti is not None
    image = decode(source)
    images.finite(image, source)  # an error now rather than in training
    write_prepared(image, source.tensor, Origin(fingerprint(source.nifti)))


def _check_disk(images: Images, sources: Sources, parts: NamedParts | None) -> None:
    """Say how much disk it will take, and refuse before a byte is written if there is less.

    Raises
    ------
    OSError
        With the folder and the bytes needed and free.
    """
    needed: dict[int, int] = {}
    folders: dict[int, Path] = {}
    n_files = 0
    for source, cohort in sources:
        try:
            sizes = [size for path, size in _files(images, source, cohort, parts) if not path.is_file()]
        except ImageError:
            continue  # said when its turn comes, after the others are prepared
        device = source.session.stat().st_dev
        folders.setdefault(device, source.session)
        needed[device] = needed.get(device, 0) + sum(sizes)
        n_files += len(sizes)
    for device, n_bytes in needed.items():
        free = shutil.disk_usage(folders[device]).free
        logger.info(
            "preparing %d images: %d files are missing and will take %.2f GB; %.2f GB are free",
            len(sources), n_files, n_bytes / 1e9, free / 1e9,
        )  # fmt: skip
        if n_bytes > free:
            raise OSError(
                28, f"preparing takes {n_bytes} bytes of disk, of which {free} are free", str(folders[device])
            )


def _files(
    images: Images, source: Source, cohort: str | None, parts: NamedParts | None
) -> list[tuple[Path, int]]:
    """The files that preparing an image makes, and their sizes in bytes."""
    if parts is None:
        if source.nifti is None:
            return []
        # Images of one cohort are alike: no header is read but the first.
        shape = images.first[cohort][0] if cohort in images.first else images.header(source, cohort)[0]
        return [(source.tensor, 4 * int(np.prod(shape)) + _OVERHEAD)]
    shape = images.header(source, cohort)[0]
    sizes = {
        part_id: [axis.stop - axis.start for axis in parts.place(shape, part_id)]
        for part_id in parts.ids(shape)
    }
    return [
        (
            part_path(source, parts, part_id),
            4 * int(np.prod(size)) * getattr(parts, "channels", 1) + _OVERHEAD,
        )
        for part_id, size in sizes.items()
    ]
