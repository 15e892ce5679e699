from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.results.file_systems import file_system_of, is_network

TABLE = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw 0 0
tmpfs /home/me/local tmpfs rw 0 0
sshfs#x /mnt/my\\040files fuse.sshfs rw 0 0
/dev/vdb /data ext4 rw 0 0
lustre /data lustre rw 0 0
broken
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/run", "ext4"),
        ("/home/me/run", "nfs4"),
        ("/homes/me", "ext4"),
        ("/home/me/local/run", "tmpfs"),
        ("/mnt/my files/run", "fuse.sshfs"),
        ("/data", "lustre"),  # mounted over another one
    ],
)
def test_the_deepest_mount_decides(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(TABLE)
    assert file_system_of(Path(path), mounts) == kind


def test_without_a_table_nothing_is_known(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "absent") is None
    assert not is_network(None)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "fuse.sshfs", "ceph"])
def test_network_file_systems_are_known(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuse.ntfs"])
def test_local_file_systems_are_not_refused(kind: str) -> None:
    assert not is_network(kind)
