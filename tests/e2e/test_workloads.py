"""What agents do all day, in a mounted session with a hub and two nodes; then all copies must be equal."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import zipfile
from pathlib import Path

import pytest
from stack import Stack, differences

pytestmark = pytest.mark.timeout(600)

GIT = ["git", "-c", "user.name=Agent", "-c", "user.email=agent@example.org", "-c", "gc.auto=0"]


def run(*command: str, cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def library() -> Path:
    """Python's standard library: a real source tree of a few thousand files."""
    return Path(sysconfig.get_path("stdlib"))


def copy_library(into: Path) -> None:
    ignored = shutil.ignore_patterns(
        "site-packages", "test", "tests", "__pycache__", "*.so", "*.a", "config-*"
    )
    shutil.copytree(library(), into, symlinks=True, ignore=ignored)


def use_git(project: Path) -> None:
    def git(*arguments: str) -> None:
        run(*GIT, *arguments, cwd=project)

    git("init", "-q", "-b", "main", ".")
    git("add", ".")
    git("commit", "-q", "-m", "all")
    git("checkout", "-q", "-b", "other")
    for path in sorted(project.glob("*.py"))[:40]:
        path.write_bytes(path.read_bytes() + b"\n# changed\n")
    git("rm", "-q", "-r", "json")
    git("commit", "-q", "-a", "-m", "changes")
    git("checkout", "-q", "main")
    git("checkout", "-q", "other")
    git("gc", "-q")
    git("fsck", "--strict")
    status = subprocess.run(
        [*GIT, "status", "--porcelain"], cwd=project, capture_output=True, text=True, check=True
    )
    assert status.stdout == ""


def build_with_make(project: Path) -> None:
    project.mkdir()
    for number in range(12):
        (project / f"part{number}.c").write_text(f"int part{number}(int x) {{ return x * {number}; }}\n")
    calls = " + ".join(f"part{n}({n})" for n in range(12))
    declarations = "".join(f"int part{n}(int);" for n in range(12))
    (project / "main.c").write_text(
        f'#include <stdio.h>\n{declarations}int main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    )
    (project / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "program: $(OBJECTS)\n\tcc -o $@ $^\n"
        "%.o: %.c\n\tcc -O1 -g -c -o $@ $<\n"
    )
    run("make", "-j4", cwd=project)
    printed = subprocess.run([project / "program"], capture_output=True, text=True, check=True).stdout
    assert int(printed) == sum(n * n for n in range(12))


def install_into_venv(project: Path) -> None:
    """A venv (whose pip is some 900 files), and a wheel of 300 modules made here: no registry is asked."""
    project.mkdir()
    wheel = project / "small_package-1.0-py3-none-any.whl"
    info = "small_package-1.0.dist-info"
    files = {f"small/part{n}.py": f"NUMBER = {n}\n" for n in range(300)}
    files["small/__init__.py"] = "ANSWER = 42\n"
    files[f"{info}/METADATA"] = "Metadata-Version: 2.1\nName: small-package\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    run(sys.executable, "-m", "venv", "venv", cwd=project)
    python = str(project / "venv" / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", "--no-index", str(wheel), cwd=project)
    run(python, "-c", "import small.part299 as part; assert part.NUMBER == 299", cwd=project)


def use_sqlite(path: Path, *, writers: int, rows: int) -> None:
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        db.execute("CREATE TABLE entry (writer INTEGER, number INTEGER, text TEXT)")
    db.close()
    failures: list[BaseException] = []

    def write(writer: int) -> None:
        connection = sqlite3.connect(path, timeout=60)
        try:
            for number in range(rows):
                with connection:
                    connection.execute("INSERT INTO entry VALUES (?, ?, ?)", (writer, number, "x" * 200))
        except BaseException as error:  # handed to the test, which raises it
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM entry").fetchone() == (writers * rows,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def make_every_kind(folder: Path) -> None:
    folder.mkdir()
    (folder / os.fsdecode(b"not utf-8 \xff\xfe")).write_text("bytes are names too")
    (folder / ("n" * 255)).write_text("a long name")
    os.mkfifo(folder / "fifo", 0o640)
    os.symlink("nowhere/at/all", folder / "dangling")
    (folder / "linked").write_text("one inode, two names")
    os.link(folder / "linked", folder / "linked too")
    with (folder / "sparse").open("wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    (folder / "empty").touch()
    (folder / "mode").write_text("x")
    (folder / "mode").chmod(0o4751)
    os.utime(folder / "mode", ns=(1, 1_234_567_890_123_456_789))
    deep = folder
    for level in range(30):
        deep = deep / f"level{level}"
    deep.mkdir(parents=True)
    (deep / "leaf").write_text("deep")


def test_a_day_of_work_arrives_whole_on_two_nodes(stack: Stack) -> None:
    stack.start_hub()
    mount = stack.mount("work")
    everything = ("--ownership", "preserve")
    stack.start_node("n1", "work", options=everything)
    stack.start_node("n2", "work", options=everything)
    copy_library(mount / "library")
    use_git(mount / "library")
    build_with_make(mount / "build")
    install_into_venv(mount / "python")
    use_sqlite(mount / "data.db", writers=4, rows=50)
    make_every_kind(mount / "kinds")
    stack.converge("work")
    for node in stack.nodes.values():
        assert differences(mount, node.copy("work"), excluded=("/.skills",)) == ""
        for tree in (mount, node.copy("work")):
            assert (tree / "kinds" / "sparse").stat().st_blocks < 1024
    report = stack.run("verify", "work")
    assert "agree" in report
    stack.umount(mount)
    assert stack.hub is not None
    assert stack.hub.stop() == 0
    assert [node.stop() for node in stack.nodes.values()] == [0, 0]
