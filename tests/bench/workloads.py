"""What people do in a tree, as workloads: copying, searching, git, installing, compiling.

Those of a single kind of access are in `access.py`.
"""

from __future__ import annotations

__all__ = ["TREE_WORKLOADS", "Make"]

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from sources import GIT, LIBRARIES
from workload import Site, Workload, expect, needs


def _have_tree(site: Site) -> Path:
    return site.have("tree", lambda path: site.sources.run("cp", "-rT", site.sources.tree, path))


def _have_files(site: Site) -> Path:
    return site.have(
        "files", lambda path: site.sources.run("tar", "-xf", site.sources.archive, cwd=path.parent)
    )


def _have_clone(site: Site) -> Path:
    return site.have("clone", lambda path: _clone(site, path))


def _clone(site: Site, path: Path) -> None:
    site.sources.run(*GIT, "clone", "-q", "--no-local", site.sources.repository, path)


def _git(site: Site, *arguments: str) -> str:
    return site.sources.run(*GIT, *arguments, cwd=site.folder / "clone")


class CopyTree(Workload):
    name, title, sources = "copy-tree", "copy a tree in", ("tree",)

    def run(self, site: Site) -> None:
        site.sources.run("cp", "-a", site.sources.tree, site.folder / "tree")

    def check(self, site: Site) -> None:
        site.sources.run("diff", "-r", "--no-dereference", site.sources.tree, site.folder / "tree")
        site.is_complete("tree")


class ListAndStat(Workload):
    name, title, sources = "list-stat", "list and stat a tree", ("tree", "tree_names")

    def prepare(self, site: Site) -> None:
        _have_tree(site)

    def run(self, site: Site) -> None:
        site.sources.run("ls", "-lR", site.folder / "tree")
        found = site.sources.run("find", site.folder / "tree", "-mindepth", "1", "-printf", r"%s\n")
        (site.notes / "found").write_text(found)

    def check(self, site: Site) -> None:
        expect("names found", (site.notes / "found").read_text().count("\n"), site.sources.tree_names)


class Grep(Workload):
    sources = ("tree",)

    def __init__(self, *, cold: bool) -> None:
        self.cold = cold
        self.name = "grep-cold" if cold else "grep-warm"
        self.title = f"grep, {'cold' if cold else 'warm'}"

    def _search(self, site: Site, tree: Path) -> str:
        return site.sources.run("grep", "-rhc", "def main", tree, ok=(0, 1))

    def prepare(self, site: Site) -> None:
        tree = _have_tree(site)
        if not self.cold:
            self._search(site, tree)

    def run(self, site: Site) -> None:
        (site.notes / "hits").write_text(self._search(site, site.folder / "tree"))

    def check(self, site: Site) -> None:
        hits = sorted((site.notes / "hits").read_text().splitlines())
        expect("lines found", hits, sorted(self._search(site, site.sources.tree).splitlines()))


class Untar(Workload):
    name, title, sources = "untar", "untar", ("archive",)

    def run(self, site: Site) -> None:
        site.sources.run("tar", "-xf", site.sources.archive, cwd=site.folder)

    def check(self, site: Site) -> None:
        said = site.sources.run("tar", "-df", site.sources.archive, cwd=site.folder, ok=(0, 1))
        # Times may differ: what is built on libfuse 2 is not told of one that is set without the other.
        wrong = [line for line in said.splitlines() if not line.endswith("Mod time differs")]
        expect("files that differ", wrong[:3], [])
        site.is_complete("files")


class RemoveTree(Workload):
    name, title, sources = "rm-rf", "rm -rf", ("archive",)

    def prepare(self, site: Site) -> None:
        _have_files(site)
        site.is_gone("files")

    def run(self, site: Site) -> None:
        site.sources.run("rm", "-rf", site.folder / "files")

    def check(self, site: Site) -> None:
        expect("the tree is there", (site.folder / "files").exists(), False)


class GitClone(Workload):
    name, title, sources = "git-clone", "git clone", ("repository",)

    def run(self, site: Site) -> None:
        _clone(site, site.folder / "clone")

    def check(self, site: Site) -> None:
        here = _git(site, "rev-parse", "HEAD")
        expect("HEAD", here, site.sources.run(*GIT, "rev-parse", "HEAD", cwd=site.sources.repository))
        command = ("diff", "-r", "--no-dereference", "--exclude=.git", site.sources.repository)
        site.sources.run(*command, site.folder / "clone")
        site.is_complete("clone")


class GitStatus(Workload):
    name, title, sources = "git-status", "git status", ("repository",)

    def prepare(self, site: Site) -> None:
        _have_clone(site)

    def run(self, site: Site) -> None:
        (site.notes / "status").write_text(_git(site, "status", "--porcelain"))

    def check(self, site: Site) -> None:
        expect("changes that nobody made", (site.notes / "status").read_text(), "")


class GitCheckout(Workload):
    name, title, sources = "git-checkout", "git checkout of another branch", ("repository",)

    def prepare(self, site: Site) -> None:
        _have_clone(site)
        site.is_gone("clone")

    def run(self, site: Site) -> None:
        _git(site, "checkout", "-q", "other")

    def check(self, site: Site) -> None:
        changed = min((site.folder / "clone").rglob("*.py"))
        expect("the branch is there", changed.read_bytes().endswith(b"# on the other branch\n"), True)
        expect("changes that nobody made", _git(site, "status", "--porcelain"), "")
        _git(site, "checkout", "-q", "main")
        site.is_complete("clone")


class GitLog(Workload):
    name, title, sources = "git-log", "git log -p", ("repository", "log")

    def prepare(self, site: Site) -> None:
        _have_clone(site)

    def run(self, site: Site) -> None:
        with (site.notes / "log").open("wb") as said:
            command = [*GIT, "log", "-p"]
            cwd = site.folder / "clone"
            done = subprocess.run(command, stdout=said, cwd=cwd, env=site.sources.environment, check=False)
        expect("git log ended with", done.returncode, 0)

    def check(self, site: Site) -> None:
        said = hashlib.sha256((site.notes / "log").read_bytes()).hexdigest()
        expect("digest of the log", said, site.sources.log)


class PipInstall(Workload):
    name, title, sources = "pip-install", "pip install", ("wheels", "wheel_modules")

    def impossible(self) -> str:
        found = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
        return "" if found.returncode == 0 else "this Python has no pip"

    def run(self, site: Site) -> None:
        where = ("--no-index", "--find-links", site.sources.wheels, "--prefix", site.folder / "python")
        quiet = ("-q", "--no-cache-dir", "--no-warn-script-location", "--root-user-action=ignore")
        site.sources.run(sys.executable, "-m", "pip", "install", *quiet, *where, "benchapp")

    def check(self, site: Site) -> None:
        installed = list((site.folder / "python").rglob("*.py"))
        expect("modules installed", len(installed), site.sources.wheel_modules)
        packages = next(path.parent for path in installed if path.name == "benchapp.py")
        code = f"import sys; sys.path.insert(0, {str(packages)!r}); import benchapp, bench_email.message"
        site.sources.run(sys.executable, "-c", code)


class NpmInstall(Workload):
    name, title, sources = "npm-install", "npm install", ("npm_project",)

    def impossible(self) -> str:
        return needs("npm")

    def prepare(self, site: Site) -> None:
        shutil.copytree(site.sources.npm_project, site.folder / "npm")

    def run(self, site: Site) -> None:
        site.sources.run(*site.sources.npm_install, cwd=site.folder / "npm")

    def check(self, site: Site) -> None:
        files = len(list((site.folder / "npm" / "node_modules").glob("bench-*/*.js")))
        expect("files installed", files, site.sizes.npm_packages * site.sizes.npm_files)


class CompilePython(Workload):
    name, title, sources = "compileall", "python -m compileall", ("tree",)

    def prepare(self, site: Site) -> None:
        tree = _have_tree(site)
        for cache in list(tree.rglob("__pycache__")):
            shutil.rmtree(cache)

    def run(self, site: Site) -> None:
        folders = [site.folder / "tree" / name for name in LIBRARIES]
        site.sources.run(sys.executable, "-m", "compileall", "-q", *folders)

    def check(self, site: Site) -> None:
        folders = [site.folder / "tree" / name for name in LIBRARIES]
        compiled = sum(1 for folder in folders for _ in folder.rglob("*.pyc"))
        expect("modules compiled", compiled, sum(1 for folder in folders for _ in folder.rglob("*.py")))
        for folder in folders:
            for cache in list(folder.rglob("__pycache__")):
                shutil.rmtree(cache)


class Make(Workload):
    sources = ("c_project", "c_sum")

    def __init__(self, jobs: int = 2) -> None:
        self.jobs = jobs
        self.name = "make"
        self.title = f"make -j{jobs}"

    def impossible(self) -> str:
        return needs("make") or needs("gcc")

    def prepare(self, site: Site) -> None:
        shutil.copytree(site.sources.c_project, site.folder / "c")

    def run(self, site: Site) -> None:
        site.sources.run("make", f"-j{self.jobs}", cwd=site.folder / "c")

    def check(self, site: Site) -> None:
        program = site.folder / "c" / "program"
        expect("executable", os.access(program, os.X_OK), True)
        expect("the program's sum", site.sources.run(program), f"{site.sources.c_sum}\n")


TREE_WORKLOADS: tuple[Workload, ...] = (
    CopyTree(),
    ListAndStat(),
    Grep(cold=True),
    Grep(cold=False),
    CompilePython(),
    Untar(),
    RemoveTree(),
    GitClone(),
    GitStatus(),
    GitCheckout(),
    GitLog(),
    PipInstall(),
    NpmInstall(),
    Make(),
)
