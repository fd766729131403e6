"""Choice of the Triton kernels for the pooling of large maps on a GPU."""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from neurocnn.errors.logger import LOGGER

#: Smallest number of voxels of a map that is pooled by the kernels; None disables the kernels. For smaller maps, the
#: kernels are compiled for longer than their use saves.
TRITON_VOXELS: int | None = 2**20


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_triton() -> bool:
    """Return whether Triton's kernels can run: it comes with torch for CUDA on Linux, and needs a C compiler."""
    return _has_driver()


@cache
def _has_driver() -> bool:
    if find_spec("triton") is None:
        return False
    import triton  # type: ignore[import-untyped]

    try:
        # The first call compiles and loads the functions by which Triton launches kernels.
        triton.runtime.driver.active.get_current_device()
    except Exception as error:
        # It depends on what is missing (compiler, header or library) which error Triton raises.
        LOGGER.warning(
            "Triton cannot run kernels on this machine (%s: %s); expected a C compiler and the headers of Python; "
            "pooling and convolutions use torch's operations, which are slower",
            type(error).__name__, error,
        )  # fmt: skip
        return False
    return True


def pools_by_kernels(x: Tensor) -> bool:
    """Return whether the Triton kernels pool the map `x` (B, C, …)."""
    # An exported network must work without Triton, and for any batch size, so that no size may be read.
    if TRITON_VOXELS is None or not x.is_cuda or torch.compiler.is_exporting():
        return False
    return x.numel() >= TRITON_VOXELS and has_triton()


def max_pool_pairs_by_kernels(x: Tensor, return_indices: bool) -> tuple[Tensor, Tensor | None]:
    """Return the maximum of each window of two voxels per axis, and its position in the flattened padded map."""
    # The import is here, because triton comes only with torch for CUDA.
    from neurocnn.nn.triton_pooling import max_pool_pairs_with_positions, padded_indices

    out, positions = max_pool_pairs_with_positions(x)
    return out, padded_indices(positions, x.shape[2:]) if return_indices else None
