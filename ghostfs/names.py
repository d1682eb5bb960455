"""Which names may exist: the rule for file names, the reserved overlay name, names of sessions and nodes.

Pure. File names are bytes and need not be UTF-8.
"""

from __future__ import annotations

__all__ = [
    "NAME_MAX",
    "OVERLAY",
    "check_filename",
    "check_label",
    "conflict_name",
    "display",
    "is_reserved",
]

import re
import unicodedata

from ghostfs.errors import InvalidCell, InvalidName

NAME_MAX = 255
"""Longest file name in bytes, as on ext4, xfs, btrfs and tmpfs."""

OVERLAY = b".skills"
"""The name at a session's root that belongs to the skill registry."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FOLDED_OVERLAY = OVERLAY.decode()


def is_reserved(name: bytes) -> bool:
    """Whether a name at a session's root is the overlay's, or one that a filesystem may fold to it.

    Folding covers case and Unicode compatibility forms (NFKC, then case folding, as case-insensitive
    filesystems do), and code points that such filesystems ignore.
    """
    if name == OVERLAY:
        return True
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return False
    folded = unicodedata.normalize("NFKC", text).casefold()
    visible = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    return unicodedata.normalize("NFKC", visible).casefold() == _FOLDED_OVERLAY


def check_filename(name: bytes) -> bytes:
    """The name itself, if a POSIX directory can hold it.

    Raises:
        InvalidCell: empty, `.`, `..`, longer than `NAME_MAX` bytes, or with a slash or NUL.
    """
    if not name or name in (b".", b"..") or len(name) > NAME_MAX or b"/" in name or b"\0" in name:
        raise InvalidCell(f"not a file name: {name!r}")
    return name


def check_label(what: str, label: str) -> str:
    """The label itself, if a session or node may be called that.

    Raises:
        InvalidName: with the rule, and `what` ("session", "node") named.
    """
    if not _LABEL.fullmatch(label):
        raise InvalidName(
            f"{what} name {label!r} is not allowed: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    return label


def conflict_name(name: bytes, node: str, utc: str, attempt: int = 0) -> bytes:
    """`report.txt` → `report.conflict-<node>-<utc>.txt`, at most `NAME_MAX` bytes; `attempt` makes it another."""
    stem, dot, suffix = name.rpartition(b".")
    if not stem or len(suffix) > 16:
        stem, dot, suffix = name, b"", b""
    again = f"-{attempt}" if attempt else ""
    tail = f".conflict-{node}-{utc}{again}".encode() + dot + suffix
    return stem[: NAME_MAX - len(tail)] + tail


def display(name: bytes) -> str:
    """A name for people and for `--json`: UTF-8 where it is, other bytes and controls as `\\xNN` escapes.

    Backslashes are doubled, so that the text can be turned back into the bytes.
    """
    text = name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
