"""caps.prepare: the tensors that training memory-maps, written in parallel and only where they are missing."""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from neurocnn.data.images import Images
from neurocnn.data.layout import Source
from neurocnn.data.parts import Parts
from neurocnn.data.prepared import Origin, fingerprint, part_stem, write_prepared
from neurocnn.errors import ImageError, SettingError

logger = logging.getLogger("neurocnn")


def prepare(
    images: Images, sources: Sequence[tuple[Source, str | None]], parts: Parts, n_workers: int
) -> None:
    """Write the prepared tensors of some images; see `Caps.prepare`."""
    from tqdm import tqdm

    def work(item: tuple[Source, str | None]) -> None:
        _prepare_one(images, *item, parts)

    with ThreadPoolExecutor(max(1, n_workers)) as pool:
        for _ in tqdm(pool.map(work, sources), total=len(sources), desc="prepare", disable=None):
            pass


def _prepare_one(images: Images, source: Source, cohort: str | None, parts: Parts) -> None:
    if parts.name == "image":
        try:
            if images.prepared(source) is not None:
                return
        except ImageError:
            if source.nifti is None:
                raise
        write_prepared(images._decode(source), source.tensor, Origin(fingerprint(source.nifti)))
        return
    image = images.image(source, cohort)
    for part_id in parts.ids(tuple(image.shape[1:])):
        path = source.tensor_of(parts.name, part_stem(source.stem, parts.descriptor(part_id)))
        write_prepared(parts.extract(image, part_id), path, None)
