"""Choice of the library for gzip streams and checksums."""

import zlib
from functools import cache
from typing import Any


@cache
def zlib_module() -> Any:
    """Return isal, which has the functions of zlib and is several times as fast; zlib where there is no isal.

    Examples
    --------
    >>> zlib_module().crc32(b"123456789") == 0xCBF43926
    True
    """
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib
