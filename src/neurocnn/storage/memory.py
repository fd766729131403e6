"""Available memory and peak memory use, of main memory or a GPU, and the text of a number of bytes."""

import os
import sys

import torch


def available_memory(device: torch.device | None = None) -> int:
    """Return the number of bytes that can be allocated on a device without swapping.

    Parameters
    ----------
    device
        Device to query, such as ``torch.device("cuda", 1)``. For None, and for devices that share the system's
        memory, the CPU is queried.

    Examples
    --------
    >>> available_memory() > 0
    True
    """
    if device is not None and device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch can also allocate the memory that it has reserved and does not use.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        # The system does not report its memory, so a small machine is assumed.
        return 8 << 30


def peak_memory(device: torch.device | None = None) -> int:
    """Return the peak memory use of this process on a device, in bytes; 0 if unknown. None means main memory.

    Examples
    --------
    >>> peak_memory() > 0
    True
    """
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:
        # The module resource is missing on Windows.
        return 0
    # macOS reports bytes, and Linux reports KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def size_text(n_bytes: int) -> str:
    """Return a number of bytes as text, in MB (10^6 bytes) or GB (10^9 bytes).

    Examples
    --------
    >>> size_text(40_000), size_text(23_000_000_000)
    ('0.04 MB', '23.00 GB')
    """
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.2f} MB"
