"""A cache of images that is bounded in bytes."""

from collections import OrderedDict

from torch import Tensor
from torch.utils.data import get_worker_info

from neurocnn.data.sources import Source


class Cache:
    """The images used last.

    Parameters
    ----------
    n_bytes
        At most so many bytes of them; the workers of a data loader share it out.
    n_images
        At most so many of them.
    """

    def __init__(self, n_bytes: int, n_images: int) -> None:
        self.n_bytes = n_bytes
        self.n_images = n_images
        self.held = 0
        self._images: OrderedDict[Source, Tensor] = OrderedDict()

    def __len__(self) -> int:
        """How many images are held."""
        return len(self._images)

    def get(self, source: Source) -> Tensor | None:
        """The image, now the one used last; None if it is not held."""
        image = self._images.get(source)
        if image is not None:
            self._images.move_to_end(source)
        return image

    def put(self, source: Source, image: Tensor) -> None:
        """Keep an image, and let go of those that were not used for longest."""
        info = get_worker_info()
        limit = self.n_bytes // (info.num_workers if info is not None else 1)
        if source in self._images:
            self.held -= self._images.pop(source).nbytes
        # An image larger than the whole cache would only push the others out.
        if image.nbytes <= limit:
            self._images[source] = image
            self.held += image.nbytes
        while self.held > limit or len(self._images) > self.n_images:
            self.held -= self._images.popitem(last=False)[1].nbytes
