"""Other users, and a machine that is set up otherwise: commands in a mount namespace of their own.

What is mounted in there, over /dev or /etc too, nobody else sees, and it goes with the last process in it.
"""

from __future__ import annotations

__all__ = ["GHOSTFS", "Namespace"]

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

GHOSTFS = [sys.executable, "-P", "-m", "ghostfs"]

_TO_THE_ROOT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)
call("unshare", 0x20000)
fd = os.open("/", os.O_PATH | os.O_DIRECTORY)
call("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0x20000)
os.fchdir(fd)
os.makedirs("mnt/root", exist_ok=True)
call("mount", b".", b"mnt/root", None, 0x5000, None)
os.chdir("mnt/root")
call("pivot_root", b".", b".")
call("umount2", b".", 2)
os.chdir("/mnt")
user = int(sys.argv[1])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Runs a command as a user, in a mount namespace whose root is the root of the one that starts it: the kernel lets
nobody who is in a chroot make a user namespace."""


class Namespace:
    """A mount namespace with an empty filesystem at `/mnt`, and a /dev/fuse for all. A context manager."""

    def __enter__(self) -> Self:
        # Propagation is cut from its real root, which is not ours where the tests run in a chroot: entering
        # the namespace leads to that, and `--root` back.
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "unchanged", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._holder.stdin is not None
            assert self._holder.stdout is not None
            self._holder.stdin.write(b"\n")
            self._holder.stdin.flush()
            self._holder.stdout.read(1)  # it runs, so the namespace is there
            subprocess.run([*self._enter(), "--", "mount", "--make-rprivate", "/"], check=True)
            self.shell(
                "mount -t tmpfs -o mode=755 place /mnt; mknod -m 666 /mnt/fuse c 10 229; mount --bind /mnt/fuse /dev/fuse"
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def seen(self, path: str) -> Path:
        """How this process gets at a path in there."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def home(self, user: int) -> str:
        """A directory of the user's own, with an empty directory `mnt` in it."""
        home = f"/mnt/user{user}"
        self.shell(f"install -d -m 755 -o {user} -g {user} {home} {home}/mnt")
        return home

    def shell(self, script: str) -> None:
        """A script that must succeed, as root."""
        self.run("sh", "-euc", script).check_returncode()

    def ghostfs(
        self, *arguments: str, user: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A `ghostfs` command, with its data in the user's home."""
        data = {"GHOSTFS_DATA_DIR": f"/mnt/user{user}/data", "GHOSTFS_LOG_FORMAT": "json"}
        return self.run(*GHOSTFS, *arguments, user=user, **data, **environment)

    def run(self, *command: str, user: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command as a user, who may look anywhere: else the interpreter itself might be out of reach."""
        root = f"/proc/{self._holder.pid}/root"
        enter = [*self._enter(), f"--root={root}", f"--wd={root}{Path.cwd()}", "--"]
        who = [_program("setpriv"), f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        who += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        return subprocess.run(
            [*enter, *(who if user else []), *command],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def in_user_namespace(
        self, script: str, *options: str, user: int, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """A script that a user runs by `unshare` with these options (`-Urm`), with nothing of other users' in reach,
        but the interpreter and what it loads. `$G` in it is `ghostfs`; its data are in the user's home."""
        self._let_through(Path(sys.executable).resolve())
        self._let_through(Path(__file__).resolve())
        self._let_through(Path(sys.prefix) / "lib")
        data = {"GHOSTFS_DATA_DIR": f"/mnt/user{user}/data", "GHOSTFS_LOG_FORMAT": "json"}
        data["XDG_CONFIG_HOME"] = f"/mnt/user{user}"
        data["G"] = " ".join(GHOSTFS)
        started = [sys.executable, "-c", _TO_THE_ROOT, str(user), "unshare", *options, "sh", "-c", script]
        return self.run(*started, **data, **environment)

    def _let_through(self, path: Path) -> None:
        """Everybody can get to a path: a directory above it that is closed gets another one before it."""
        above = Path("/")
        for part in path.parts[1:]:
            if not self.seen(str(above)).stat().st_mode & 0o001:
                behind = f"/mnt/behind{str(above).replace('/', '-')}"
                self.shell(
                    f"mkdir {behind}; mount --rbind {above} {behind}; mount -t tmpfs -o mode=755 before {above};"
                    f"mkdir {above}/{part}; mount --rbind {behind}/{part} {above}/{part}"
                )
            elif not self.seen(str(above / part)).exists():
                behind = f"/mnt/behind{str(above).replace('/', '-')}"
                self.shell(f"mkdir {above}/{part}; mount --rbind {behind}/{part} {above}/{part}")
            above = above / part

    def _enter(self) -> list[str]:
        return [_program("nsenter"), f"--mount=/proc/{self._holder.pid}/ns/mnt"]

    def _end(self) -> None:
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        with suppress(BrokenPipeError):
            self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


def _program(name: str) -> str:
    """Its path: the test's own PATH is not the one of the command."""
    found = shutil.which(name)
    assert found, f"{name} is not installed"
    return found
