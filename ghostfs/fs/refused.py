"""Pages that the kernel keeps although what is in them was refused.

When a disk does not take what was written through a memory map, or what the writeback cache has gathered, msync or
fsync says so once. The pages stay as they are and count as written: whoever reads would see what is on no disk, and
see it gone some time later. So the kernel is told to drop them, and asks for what there is.
"""

from __future__ import annotations

__all__ = ["drop_pages"]

import os
import struct
from contextlib import suppress
from typing import Final

_NOTICE: Final = struct.Struct("=IiQQqq")
"""FUSE_NOTIFY_INVAL_INODE (`linux/fuse.h`): length, what it is, 0; inode, offset, length. pyfuse3's own has no range,
and would have pages written that nobody has refused yet."""
_INVAL_INODE: Final = 2


def drop_pages(session: int, inode: int, offset: int, length: int) -> None:
    """Returns when the kernel has dropped these bytes of a file, and has written them if they have changed meanwhile.

    `session` is the descriptor of /dev/fuse. Blocks until requests in progress are answered: not for the loop.
    """
    with suppress(OSError):  # it has forgotten the inode, or the mount has gone: nothing is kept
        os.write(session, _NOTICE.pack(_NOTICE.size, _INVAL_INODE, 0, inode, offset, length))
