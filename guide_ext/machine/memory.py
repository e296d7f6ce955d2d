# SPDX-License-Identifier: MIT
"""How this process gets its memory."""

from __future__ import annotations

import ctypes
import os

# Parameters of mallopt, from <malloc.h> of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER_TRIM = -1
_OWN_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Keep what this process frees for what it allocates next, instead of returning it.

    For a process of our own that computes one batch after the other, not for a library: it is a
    setting of the whole process, which from then on needs as much memory as it once did at most.
    The GNU C library gives large blocks back to the system as soon as they are free, and the system
    clears each page when it hands it out again (docs/benchmarks.md, “A study of a real model”).

    Returns:
        Whether it does. Not where the user has set the allocator by its environment variables, and
        not with other C libraries.

    Example:
        >>> keep_freed_memory() in (True, False)
        True

    """
    if any(name.startswith(_OWN_SETTINGS) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - other libraries have a mallopt, too
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
