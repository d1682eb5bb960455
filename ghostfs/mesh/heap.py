"""How the C library keeps the memory of a process that moves large messages all the time.

By default glibc maps each buffer of 128 KiB and more anew, or gives the top of its heap back as soon as that
much of it is free, so every message is paid for again with page faults and zeroed pages. With other
thresholds the few buffers of the messages under way are used again and again.
"""

from __future__ import annotations

__all__ = ["keep_buffers"]

import ctypes

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""From glibc's malloc.h."""

_LARGEST_KEPT = 4 << 20
"""No buffer of a message is larger; what is goes back to the system at once."""

_FREE_KEPT = 16 << 20
_GROWTH = 1 << 20


def keep_buffers() -> None:
    """Sets the thresholds of this process; with another C library, which has other ways, nothing happens."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, _FREE_KEPT)
    mallopt(_M_TOP_PAD, _GROWTH)
