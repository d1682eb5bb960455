"""What a mount asks the kernel about itself, as a program. `outside` says why, and starts it.

    outsider.py inode DIRECTORY                 the number of the inode that is there
    outsider.py detach DIRECTORY FLAGS          umount2(2)
    outsider.py flush DIRECTORY DEVICE ROOT     has written back what the kernel holds of a mount, known by its
                                                `st_dev` and the inode of its root, and of the files that standard
                                                input names: number, space, path and NUL of each

It answers on standard output: `errno` and a number, or what it found; after `flush`, with a space before each, the
numbers of the files that it could not reach by their paths, and `!` and an errno if pages could not be written. It loads
what Python itself needs and no more.
"""

import ctypes
import errno
import os
import sys

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_OPENAT2 = 437
_RESOLVE = 0x01 | 0x04 | 0x08
"""`RESOLVE_NO_XDEV`, `_NO_SYMLINKS` and `_BENEATH`: another filesystem in the way may not answer."""
_PATH_MAX = 4000
_WRITE_AND_WAIT = 7
"""`SYNC_FILE_RANGE_WAIT_BEFORE`, `_WRITE` and `_WAIT_AFTER`: all of it, without asking for an fsync."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)
_libc.syscall.restype = ctypes.c_long


def main(request: str, directory: str, *numbers: str) -> str:
    """What there is to say. Raises OSError."""
    if request == "inode":
        return str(os.stat(directory).st_ino)
    if request == "detach":
        _checked(_libc.umount2(os.fsencode(directory), int(numbers[0])))
        return ""
    if request == "flush":
        return _flush(directory, int(numbers[0]), int(numbers[1]))
    raise ValueError(request)


def _flush(directory: str, device: int, root: int) -> str:
    wanted = [entry.split(b" ", 1) for entry in sys.stdin.buffer.read().split(b"\0")[:-1]]
    said, trouble = "", 0
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (device, root):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        _libc.syncfs(fd)  # it may say what could not be written some time ago; of whom is known below
        for number, path in wanted:
            try:
                file = _reach(fd, path, (device, int(number)))
            except OSError:
                said += f" {int(number)}"
                continue
            try:
                _checked(_libc.sync_file_range(file, 0, 0, _WRITE_AND_WAIT))
            except OSError as error:
                trouble = error.errno or errno.EIO
            finally:
                os.close(file)
    finally:
        os.close(fd)
    return f"{said} !{trouble}" if trouble else said


def _reach(root: int, path: bytes, expected: tuple[int, int]) -> int:
    """The file, open. Raises OSError."""
    held = os.dup(root)
    try:
        while path:
            part = path if len(path) < _PATH_MAX else path[: path.rindex(b"/", 0, _PATH_MAX)]
            path = path[len(part) + 1 :]
            below = _open_below(held, part)
            os.close(held)
            held = below
        st = os.fstat(held)
        if (st.st_dev, st.st_ino) != expected:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for mode in (os.O_RDONLY, os.O_WRONLY):
            try:
                return os.open(f"/proc/self/fd/{held}", mode | os.O_NONBLOCK | os.O_CLOEXEC)
            except PermissionError:
                continue
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    finally:
        os.close(held)


def _open_below(directory: int, path: bytes) -> int:
    how = (ctypes.c_ulonglong * 3)(_HOLD, 0, _RESOLVE)
    fd = _libc.syscall(_OPENAT2, directory, path, ctypes.byref(how), ctypes.sizeof(how))
    _checked(min(0, fd))
    return int(fd)


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    try:
        said = main(*sys.argv[1:])
    except OSError as error:
        said = f"errno {error.errno}"
    sys.stdout.write(said)
