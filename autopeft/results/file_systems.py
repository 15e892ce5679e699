"""Which file system a path lies on: SQLite's WAL needs memory shared between processes.

"All processes using a database must be on the same host computer; WAL does not work over a
network filesystem." (https://www.sqlite.org/wal.html)
"""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/mounts")

NETWORK_TYPES = frozenset(
    {
        "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs", "gfs", "gfs2",
        "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "orangefs",
        "panfs", "prl_fs", "pvfs2", "smb", "smb2", "smb3", "smbfs", "vboxsf", "wekafs",
    }
)  # fmt: skip
NETWORK_FUSE = frozenset(
    {
        "ceph", "davfs2", "gcsfuse", "glusterfs", "goofys", "juicefs", "mount-s3", "moosefs",
        "rclone", "s3fs", "smbnetfs", "sshfs", "blobfuse", "blobfuse2", "google-drive-ocamlfuse",
    }
)  # fmt: skip


def file_system_of(path: Path, mounts: Path = MOUNTS) -> str | None:
    """Return the type of the file system that holds ``path``, e.g. ``ext4`` or ``fuse.sshfs``.

    None where the operating system has no table of mounts. The path need not exist.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    resolved = path.resolve()
    found: tuple[int, str] | None = None
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(_unescape(fields[1]))
        # Of mounts on the same point the last one hides the others.
        if resolved.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = (len(point.parts), fields[2])
    return found[1] if found else None


def is_network(file_system: str | None) -> bool:
    """Return whether a file system of this type is shared between hosts."""
    if file_system is None:
        return False
    kind, _, program = file_system.partition(".")
    if kind == "fuse" and program:
        return program in NETWORK_FUSE
    return file_system in NETWORK_TYPES


def _unescape(text: str) -> str:
    r"""Undo the octal escapes of the mount table, e.g. ``\040`` for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)
