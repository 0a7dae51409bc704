"""Where the loaders' files come from: the user's folder, the cache, a checked download."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from fairsvd.datasets import _files, _sources, load_bank
from fairsvd.exceptions import DatasetNotFoundError


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """An empty FAIRSVD_DATA and an empty cache, without network."""

    def unreachable(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("FAIRSVD_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FAIRSVD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return tmp_path / "data"


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Answers:
    """A stand-in for urlopen that gives fixed bytes and counts how often it is asked."""

    def __init__(self, content: bytes):
        self.content, self.asked = content, []

    def __call__(self, url, timeout):
        self.asked.append(url)
        return io.BytesIO(self.content)


def remote_of(content: bytes, member: str | None = None) -> _files.RemoteFile:
    digest = hashlib.sha256(content).hexdigest()
    return _files.RemoteFile("f", "a.csv", "https://example.org/a", digest, len(content), member)


@pytest.mark.parametrize("configured", [True, False])
def test_without_network_the_error_says_what_to_do(own_folder, monkeypatch, configured):
    if not configured:
        monkeypatch.delenv("FAIRSVD_DATA")
    with pytest.raises(DatasetNotFoundError) as caught:
        load_bank()
    remote, cache = _sources.BANK_FILE, own_folder.parent / "cache" / "bank"
    wanted = [remote.url, remote.sha256, "5,834,924 bytes", str(cache), "FAIRSVD_DATA"]
    wanted += [remote.member, str(own_folder / "bank") if configured else "not set"]
    assert [text for text in wanted if text not in str(caught.value)] == []
    assert not cache.exists()


def test_a_download_is_kept_and_not_repeated(own_folder, monkeypatch):
    answers = Answers(b"a,b\n1,2\n")
    monkeypatch.setattr(urllib.request, "urlopen", answers)
    remote = remote_of(answers.content)
    path = _files.find_file(remote)
    assert path == own_folder.parent / "cache" / "f" / "a.csv"
    assert path.read_bytes() == answers.content
    assert _files.find_file(remote) == path and answers.asked == [remote.url]
    assert [p.name for p in path.parent.iterdir()] == ["a.csv"]


def test_a_damaged_cache_is_fetched_again(own_folder, monkeypatch):
    answers = Answers(b"whole")
    monkeypatch.setattr(urllib.request, "urlopen", answers)
    write(own_folder.parent / "cache" / "f" / "a.csv", b"who")
    assert _files.find_file(remote_of(b"whole")).read_bytes() == b"whole"


def test_a_download_with_another_checksum_is_refused(own_folder, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", Answers(b"something else"))
    other = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(DatasetNotFoundError, match=f"14 bytes and sha256 {other}; it was not kept"):
        _files.find_file(remote_of(b"expected"))
    assert not (own_folder.parent / "cache").exists()


def test_a_file_is_taken_out_of_its_archive(own_folder, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("deep/a.csv", b"inside")
    monkeypatch.setattr(urllib.request, "urlopen", Answers(archive.getvalue()))
    assert _files.find_file(remote_of(b"inside", "deep/a.csv")).read_bytes() == b"inside"
    (own_folder.parent / "cache" / "f" / "a.csv").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"take deep/b\.csv out of it"):
        _files.find_file(remote_of(b"inside", "deep/b.csv"))
    monkeypatch.setattr(urllib.request, "urlopen", Answers(b"<html>"))
    with pytest.raises(DatasetNotFoundError, match="not a zip file"):
        _files.find_file(remote_of(b"inside", "deep/a.csv"))


def test_an_interrupted_write_leaves_nothing(own_folder, monkeypatch):
    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(urllib.request, "urlopen", Answers(b"content"))
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _files.find_file(remote_of(b"content"))
    assert list((own_folder.parent / "cache" / "f").iterdir()) == []


def test_the_users_folder_comes_first_and_is_read_as_it_is(own_folder):
    write(own_folder / "f" / "a.csv", b"reduced")
    write(own_folder.parent / "cache" / "f" / "a.csv", b"original")
    assert _files.find_file(remote_of(b"original")).read_bytes() == b"reduced"
    (own_folder / "f" / "a.csv").unlink()
    assert _files.find_file(remote_of(b"original")).read_bytes() == b"original"


def test_the_cache_is_in_the_home_folder_unless_told(monkeypatch):
    monkeypatch.delenv("FAIRSVD_CACHE", raising=False)
    assert _files.cache_folder() == Path.home() / ".cache" / "fairsvd"
    monkeypatch.setenv("FAIRSVD_CACHE", "~/elsewhere")
    assert _files.cache_folder() == Path.home() / "elsewhere"


ORIGINALS = [
    *_sources.ADULT_FILES,
    _sources.GERMAN_FILE,
    _sources.BANK_FILE,
    *_sources.FASHION_FILES["train"],
    *_sources.FASHION_FILES["test"],
]


@pytest.mark.parametrize("remote", ORIGINALS, ids=lambda remote: remote.name)
def test_checksums_and_sizes_are_those_of_the_files(data_folder, remote):
    content = (data_folder / remote.folder / remote.name).read_bytes()
    assert len(content) == remote.size
    assert hashlib.sha256(content).hexdigest() == remote.sha256
