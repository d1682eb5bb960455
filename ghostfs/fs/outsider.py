"""What a mount asks the kernel about itself, as a program. `outside` says why, and starts it.

    outsider.py inode DIRECTORY                 the number of the inode that is there
    outsider.py detach DIRECTORY FLAGS          umount2(2)
    outsider.py flush DIRECTORY DEVICE ROOT     has written back what the kernel holds of a mount, known by its
                                                `st_dev` and the inode of its root, and of the files that standard
                                                input names: number, space, path and NUL of each

It answers on standard output: `errno` and a number, or what it found; after `flush`, the numbers of the files that are
not at their paths, each with a space before it. It loads what Python itself needs and no more.
"""

import ctypes
import errno
import os
import sys

_HOLD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITE_AND_WAIT = 7
"""`SYNC_FILE_RANGE_WAIT_BEFORE`, `_WRITE` and `_WAIT_AFTER`: all of it, without asking for an fsync."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint)


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
    missed, trouble = "", None
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != (device, root):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        _libc.syncfs(fd)  # it may say what could not be written some time ago; of whom is known below
        for number, path in wanted:
            try:
                if not _write_back(fd, path, (device, int(number))):
                    missed += f" {int(number)}"
            except (
                PermissionError
            ):  # of nobody to read and to write; once the others are written, syncfs gets to it
                _libc.syncfs(fd)
            except OSError as error:
                trouble = error
    finally:
        os.close(fd)
    if trouble is not None:
        raise trouble
    return missed


def _write_back(root: int, path: bytes, expected: tuple[int, int]) -> bool:
    """Whether the file is at its path; then its pages are written. Raises OSError."""
    *above, name = path.split(b"/")
    held = at = root
    try:
        for step in (*above, name):
            below = os.open(step, _HOLD, dir_fd=at)
            if at != root:
                os.close(at)
            held = at = below
        st = os.fstat(held)
        if (st.st_dev, st.st_ino) != expected:
            return False
        try:
            fd = os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError:
            fd = os.open(f"/proc/self/fd/{held}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _checked(_libc.sync_file_range(fd, 0, 0, _WRITE_AND_WAIT))
        finally:
            os.close(fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    finally:
        if held != root:
            os.close(held)
    return True


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
