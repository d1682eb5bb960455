"""What workloads work on: a source tree, an archive, a repository, wheels, npm packages, a program in C.

Made on the spot and below the benchmark's own folder, each when it is first asked for. Nothing is fetched.
"""

from __future__ import annotations

__all__ = ["FULL", "GIT", "LIBRARIES", "MIB", "SMALL", "Failed", "Sizes", "Sources"]

import functools
import hashlib
import io
import json
import shutil
import subprocess
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from places import clean_environment

MIB = 1 << 20
GIT = ("git", "-c", "user.name=Bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
LIBRARIES = ("asyncio", "email", "multiprocessing", "unittest", "xml")
"""Packages of the standard library that are compiled, and installed under other names."""


class Failed(Exception):
    """A workload could not do its work; the message is one line."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    archived: int = 20_000
    """Files to untar and remove."""
    commits: int = 20
    npm_packages: int = 20
    npm_files: int = 50
    c_files: int = 300
    inserts: int = 300
    appends: int = 20_000
    metadata: int = 8_000
    """Files for each of create, stat, rename and unlink; a multiple of 8."""
    large_mib: int = 512
    random_mib: int = 32
    """How much of the large file is read or written in random order."""
    whole_library: bool = True


FULL = Sizes()
SMALL = Sizes(
    archived=2_000,
    commits=5,
    npm_packages=4,
    npm_files=10,
    c_files=30,
    inserts=30,
    appends=2_000,
    metadata=800,
    large_mib=32,
    random_mib=2,
    whole_library=False,
)


class Sources:
    """Everything below `base`, on the filesystem below."""

    def __init__(self, base: Path, sizes: Sizes) -> None:
        self.base = base
        self.sizes = sizes
        base.mkdir()
        self.environment = clean_environment(base) | {
            "GIT_CONFIG_NOSYSTEM": "1",
            "PIP_CONFIG_FILE": "/dev/null",
            "npm_config_registry": "http://127.0.0.1:9/",
            "npm_config_cache": str(base / "npm-cache"),
            "npm_config_update_notifier": "false",
        }

    def run(self, *command: str | Path, cwd: Path | None = None, ok: tuple[int, ...] = (0,)) -> str:
        """Runs a command to its end; its standard output.

        Raises:
            Failed: it ended otherwise than `ok`.
        """
        arguments = [str(argument) for argument in command]
        done = subprocess.run(
            arguments,
            env=self.environment,
            cwd=cwd or self.base,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode not in ok:
            lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
            said = next((line for line in lines if "error" in line.lower() or "fatal" in line), "")
            what = said or (lines[-1] if lines else "")
            raise Failed(f"{Path(arguments[0]).name} ended with {done.returncode}: {what[:160]}")
        return done.stdout

    @functools.cached_property
    def tree(self) -> Path:
        """A real source tree: Python's standard library, without its tests when small."""
        ignored = ["site-packages", "__pycache__", "*.so", "*.a", "config-*"]
        if not self.sizes.whole_library:
            ignored += ["test", "tests", "idlelib", "encodings", "lib2to3", "ensurepip"]
        library = Path(sysconfig.get_path("stdlib"))
        tree = self.base / "tree"
        shutil.copytree(library, tree, symlinks=True, ignore=shutil.ignore_patterns(*ignored))
        for path in [path for path in tree.rglob("*") if path.is_dir() and not any(path.iterdir())]:
            path.rmdir()  # git knows no empty folders
        return tree

    @functools.cached_property
    def tree_names(self) -> int:
        """How many names there are below the tree."""
        return sum(1 for _ in self.tree.rglob("*"))

    @functools.cached_property
    def archive(self) -> Path:
        """Small files in folders of 200, as a tar archive."""
        path = self.base / "files.tar"
        with tarfile.open(path, "w") as archive:
            for number in range(self.sizes.archived):
                content = b"%d\n" % number * (10 + number % 300)
                entry = tarfile.TarInfo(f"files/d{number // 200}/f{number}.txt")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return path

    @functools.cached_property
    def repository(self) -> Path:
        """The tree as a git repository: some commits on `main`, and a branch `other` that changes many files."""
        repository = self.base / "repository"
        shutil.copytree(self.tree, repository, symlinks=True)
        git = functools.partial(self.run, *GIT, cwd=repository)
        git("init", "-q", "-b", "main")
        git("add", ".")
        git("commit", "-q", "-m", "first")
        files = sorted(repository.rglob("*.py"))
        for number in range(self.sizes.commits):
            for path in files[number :: self.sizes.commits * 2]:
                path.write_bytes(path.read_bytes() + b"# %d\n" % number)
            git("commit", "-q", "-a", "-m", f"change {number}")
        git("checkout", "-q", "-b", "other")
        for path in files[::4]:
            path.write_bytes(path.read_bytes() + b"# on the other branch\n")
        git("commit", "-q", "-a", "-m", "other")
        git("checkout", "-q", "main")
        return repository

    @functools.cached_property
    def log(self) -> str:
        """The digest of what `git log -p` says of `main`."""
        said = self.base / "log.txt"
        with said.open("wb") as file:
            subprocess.run(
                [*GIT, "log", "-p"], stdout=file, cwd=self.repository, env=self.environment, check=True
            )
        return hashlib.sha256(said.read_bytes()).hexdigest()

    @functools.cached_property
    def wheels(self) -> Path:
        """Wheels that depend on each other: `benchapp` needs one for each of `LIBRARIES`."""
        folder = self.base / "wheels"
        folder.mkdir()
        library = Path(sysconfig.get_path("stdlib"))
        for name in LIBRARIES:
            modules = {
                f"bench_{name}/{path.relative_to(library / name)}": path.read_bytes()
                for path in sorted((library / name).rglob("*.py"))
                if "test" not in path.relative_to(library).parts
            }
            _write_wheel(folder, f"bench_{name}", modules, ())
        _write_wheel(folder, "benchapp", {"benchapp.py": b""}, tuple(f"bench_{name}" for name in LIBRARIES))
        return folder

    @functools.cached_property
    def wheel_modules(self) -> int:
        """How many modules all wheels hold."""
        names = [name for path in self.wheels.iterdir() for name in zipfile.ZipFile(path).namelist()]
        return sum(name.endswith(".py") for name in names)

    @functools.cached_property
    def npm_project(self) -> Path:
        """A project with a lock file that depends on tarballs beside it; npm's cache has been filled."""
        project = self.base / "npm-project"
        (project / "vendor").mkdir(parents=True)
        names = [f"bench-{number}" for number in range(self.sizes.npm_packages)]
        for name in names:
            package = {"name": name, "version": "1.0.0", "main": "f0.js", "license": "Apache-2.0"}
            files = {f"f{n}.js": f"exports.n = {n};\n" * (5 + n % 40) for n in range(self.sizes.npm_files)}
            files["package.json"] = json.dumps(package)
            with tarfile.open(project / "vendor" / f"{name}.tgz", "w:gz") as archive:
                for path, text in files.items():
                    entry = tarfile.TarInfo(f"package/{path}")
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text.encode()))
        needed = {name: f"file:vendor/{name}.tgz" for name in names}
        document = {"name": "bench", "version": "1.0.0", "private": True, "dependencies": needed}
        (project / "package.json").write_text(json.dumps(document))
        self.run(*self.npm_install, cwd=project)
        shutil.rmtree(project / "node_modules")
        return project

    npm_install = ("npm", "install", "--offline", "--no-audit", "--no-fund", "--ignore-scripts")

    @functools.cached_property
    def c_project(self) -> Path:
        """A program of many small files, and its Makefile; it prints the sum that `c_sum` says."""
        project = self.base / "c-project"
        project.mkdir()
        count = self.sizes.c_files
        declared = "".join(f"long f{n}(long);\n" for n in range(count))
        (project / "all.h").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{declared}"
        )
        for number in range(count):
            loop = f"long s = {number}; for (long i = 0; i < n; i++) s += i % {number + 2}; return s;"
            (project / f"f{number}.c").write_text(
                f'#include "all.h"\nlong f{number}(long n) {{ {loop} }}\n'
            )
        calls = " ".join(f"s += f{n}(10);" for n in range(count))
        (project / "main.c").write_text(
            f'#include "all.h"\nint main(void) {{ long s = 0; {calls} printf("%ld\\n", s); return 0; }}\n'
        )
        (project / "Makefile").write_text(
            "objects := $(patsubst %.c,%.o,$(wildcard *.c))\n"
            "program: $(objects)\n\tgcc -o $@ $^\n"
            "%.o: %.c all.h\n\tgcc -O1 -pipe -c -o $@ $<\n"
        )
        return project

    @functools.cached_property
    def c_sum(self) -> int:
        """What the program prints."""
        return sum(n + sum(i % (n + 2) for i in range(10)) for n in range(self.sizes.c_files))


def _write_wheel(folder: Path, name: str, modules: dict[str, bytes], needs: tuple[str, ...]) -> None:
    info = f"{name}-1.0.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = modules | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{required}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in (files | {f"{info}/RECORD": record.encode()}).items():
            wheel.writestr(path, content)
