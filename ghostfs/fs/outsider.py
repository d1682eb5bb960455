"""What a mount asks the kernel about itself, as a program: `python outsider.py REQUEST DIRECTORY [FLAGS]`.

`outside` says why, and starts it. The exit code is an errno. It loads what Python itself needs and no more.
"""

import ctypes
import os
import sys


def main(request: str, directory: str, flags: str = "0") -> None:
    """Raises OSError."""
    if request == "inode":
        sys.stdout.write(str(os.stat(directory).st_ino))
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if request == "detach":
        _checked(libc.umount2(os.fsencode(directory), int(flags)))
    elif request == "flush":
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _checked(libc.syncfs(fd))
        finally:
            os.close(fd)
    else:
        sys.exit(f"{sys.argv[0]}: unknown request {request}")


def _checked(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except OSError as error:
        sys.exit(error.errno)
