"""Files that are written whole or not at all, and their checksums."""

from __future__ import annotations

import errno
import hashlib
import os

import pytest

from fairsvd._files import digest, write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["a", "größe 大.bin", "x" * 250])
def test_a_file_is_written_and_replaced(tmp_path, name):
    path = tmp_path / name
    for data in (b"", b"first", b"second"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert names(tmp_path) == [name]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    write_atomically(tmp_path / "file", b"1")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_is_replaced_and_its_target_stays(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_atomically(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert [(tmp_path / name).read_bytes() for name in ("link", "target")] == [b"new", b"old"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_stands_alone(tmp_path, monkeypatch, call, error):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert names(tmp_path) == ["file"]
    assert path.read_bytes() == b"old"


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, n=name, r=real: (calls.append(n), r(*a))[1])
    write_atomically(tmp_path / "file", b"1")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", b"1")


def test_digests_are_sha256_and_its_hmac():
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()
    # Test case 2 of RFC 4231.
    assert digest(b"what do ya want for nothing?", b"Jefe") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )
