"""Mounting as a user without rights, through fusermount3."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ghostfs.fs.lifecycle import MountOptions
from ghostfs.fs.mounts import find
from ghostfs.mirror.layout import DataDir

NOBODY = 65534

RUN = """
import sys
from pathlib import Path
from ghostfs.errors import GhostError
from ghostfs.fs.lifecycle import MountOptions, mount, unmount
try:
    if sys.argv[1] == "mount":
        mount(MountOptions.from_json(sys.argv[2]))
    else:
        unmount(Path(sys.argv[2]))
except GhostError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""

WORK = """
import os, sys
os.chdir(sys.argv[1])
os.umask(0o022)
os.mkdir("d")
open("d/f", "w").write("mine")
os.chmod("d/f", 0o640)
os.rename("d/f", "d/g")
os.link("d/g", "l")
os.symlink("d/g", "s")
os.mkfifo("p")
assert open("s").read() == "mine"
assert os.stat("l").st_nlink == 2
assert os.stat("d").st_uid == os.getuid()
fd = os.open("readonly", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
os.write(fd, b"git does this"); os.fsync(fd); os.close(fd)
for act in (lambda: os.chown("l", 0, 0), lambda: os.mknod("n", 0o20666, os.makedev(1, 3)),
            lambda: open("readonly", "w"), lambda: open(".skills/x", "w"), lambda: os.mkdir(".SKILLS")):
    try:
        act()
    except OSError as error:
        print(error.errno)
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code as nobody, who may look anywhere: else the interpreter itself might be out of reach."""
    who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    who += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    return subprocess.run(
        [*who, sys.executable, "-c", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def owner_of(asked: MountOptions) -> int:
    return int(DataDir(asked.data_dir).session("work").owner_lock.read_text())


def wait_for(process: int) -> None:
    """Returns when the process of a pidfd has ended."""
    poller = select.poll()
    poller.register(process, select.POLLIN)
    assert poller.poll(30_000)
    os.close(process)


def options(place: Path, **more: Any) -> MountOptions:
    mountpoint = place / "mnt"
    mountpoint.mkdir(exist_ok=True)
    os.chown(mountpoint, NOBODY, NOBODY)
    return MountOptions("work", mountpoint, place / "data", create=True, **more)


def test_a_user_mounts_works_and_unmounts(shared_place: Path) -> None:
    asked = options(shared_place)
    made = run(RUN, "mount", asked.to_json())
    assert (made.returncode, made.stderr) == (0, "")
    worked = run(WORK, str(asked.mountpoint))
    assert worked.stderr == ""
    assert worked.stdout.split() == ["1", "1", "13", "30", "30"]
    with pytest.raises(PermissionError):
        os.stat(asked.mountpoint)  # root, too, is another user
    again = run(RUN, "mount", asked.to_json())
    assert again.returncode != 0
    assert again.stderr.startswith("SessionBusy: ")
    ended = run(RUN, "unmount", str(asked.mountpoint))
    assert (ended.returncode, ended.stderr) == (0, "")
    tree = DataDir(asked.data_dir).session("work").tree
    assert sorted(os.listdir(tree)) == ["d", "l", "p", "readonly", "s"]
    assert (tree / "d" / "g").read_text() == "mine"


MAPS = """
import mmap, os, sys
kept = []
for number in range(20):
    fd = os.open(f"{sys.argv[1]}/file{number}", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 65536)
    kept.append(mmap.mmap(fd, 65536))
    kept[-1][:] = b"k" * 65536
os.chmod(sys.argv[1], 0)
os.kill(int(sys.argv[2]), 15)
sys.stdin.read()
"""


@pytest.mark.parametrize("writeback", [False, True])
def test_a_root_that_is_closed_to_its_owner_keeps_nothing_back(shared_place: Path, writeback: bool) -> None:
    asked = options(shared_place, writeback=writeback)
    assert run(RUN, "mount", asked.to_json()).returncode == 0
    owner = owner_of(asked)
    process = os.pidfd_open(owner)
    who = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    who += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    with subprocess.Popen(
        [*who, sys.executable, "-c", MAPS, str(asked.mountpoint), str(owner)], stdin=subprocess.PIPE
    ) as user:
        wait_for(process)
        user.communicate()
    tree = DataDir(asked.data_dir).session("work").tree
    assert {(tree / f"file{number}").read_bytes() for number in range(20)} == {b"k" * 65536}


def test_programs_are_not_looked_for_in_the_mount_itself(shared_place: Path) -> None:
    asked = options(shared_place)
    path = f"{asked.mountpoint}/bin:{os.environ['PATH']}"
    assert run(RUN, "mount", asked.to_json(), PATH=path).returncode == 0
    owner = owner_of(asked)
    process = os.pidfd_open(owner)
    planted = DataDir(asked.data_dir).session("work").tree
    script = "import os, sys; os.mkdir(sys.argv[1] + '/bin'); os.chdir(sys.argv[1] + '/bin')\n"
    script += "for name in 'fusermount3', 'python3':\n    open(name, 'w').write('#!/bin/sh\\ntouch /proc/self/cwd/ran')\n"
    script += "    os.chmod(name, 0o755)\n"
    assert run(script, str(asked.mountpoint)).stderr == ""
    assert run(f"import os; os.kill({owner}, 15)").stderr == ""
    wait_for(process)
    assert sorted(os.listdir(planted / "bin")) == ["fusermount3", "python3"]
    assert find(asked.mountpoint) is None


def test_a_users_mount_keeps_no_processor_awake(shared_place: Path) -> None:
    asked = options(shared_place, awake_cpus=1 << 20)
    assert run(RUN, "mount", asked.to_json()).returncode == 0
    opened = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{owner_of(asked)}/fd")]
    assert "/dev/fuse" in opened
    assert "/dev/cpu_dma_latency" not in opened
    assert run(WORK, str(asked.mountpoint)).stderr == ""
    ended = run(RUN, "unmount", str(asked.mountpoint))
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("way", ["fusermount3", "sigterm"])
def test_a_users_mount_drains_however_it_ends(shared_place: Path, way: str) -> None:
    asked = options(shared_place)
    assert run(RUN, "mount", asked.to_json()).returncode == 0
    owner = owner_of(asked)
    process = os.pidfd_open(owner)
    if way == "fusermount3":
        ended = run(
            "import subprocess, sys; subprocess.run(['fusermount3', '-u', sys.argv[1]], check=True)",
            str(asked.mountpoint),
        )
    else:
        ended = run(f"import os; os.kill({owner}, 15)")
    assert ended.stderr == ""
    wait_for(process)
    log = DataDir(asked.data_dir).session("work").log_file.read_text()
    assert '"clean": true' in log.splitlines()[-1]


def test_a_users_dead_mount_is_cleared(shared_place: Path) -> None:
    asked = options(shared_place)
    assert run(RUN, "mount", asked.to_json()).returncode == 0
    owner = owner_of(asked)
    process = os.pidfd_open(owner)
    os.kill(owner, 9)
    wait_for(process)
    again = run(RUN, "mount", asked.to_json())
    assert again.returncode == 0, again.stderr
    assert run(RUN, "unmount", str(asked.mountpoint)).returncode == 0


def test_what_a_user_may_not_do_is_said_on_one_line(shared_place: Path) -> None:
    refused = run(RUN, "mount", options(shared_place, allow_other=True).to_json())
    assert refused.stderr.startswith("MountError: allow_other")
    asked = options(shared_place)
    os.chown(asked.mountpoint, 0, 0)
    refused = run(RUN, "mount", asked.to_json())
    assert refused.stderr.startswith("MountError: ")
    assert "not writable by you" in refused.stderr
    assert refused.stderr.count("\n") == 1
    os.chown(asked.mountpoint, NOBODY, NOBODY)
    Path("/dev/fuse").chmod(0o600)
    refused = run(RUN, "mount", asked.to_json())
    assert refused.stderr.startswith("MountError: /dev/fuse cannot be opened")
    assert refused.stderr.count("\n") == 1
