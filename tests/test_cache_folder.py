"""The folder of ``memory=``: what is no whole entry of ours is not used, and never executed."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import joblib
import pytest
import torch
from safetensors.torch import save
from torch import nn

from fairsvd.caching import Cache, Entry, open_cache, reduce_size
from fairsvd.caching._entry import seal, unseal
from fairsvd.exceptions import CacheWarning
from helpers import IGNORE_SMALL_DATA, mlp, quick, skorch_net, table

pytestmark = [pytest.mark.filterwarnings(each) for each in IGNORE_SMALL_DATA]

ROWS = table(60)
SECRET = "a secret of some length"


def entry():
    return Entry({"a": torch.arange(4.0), "b": torch.tensor(1)}, {"n": [1, "é"]})


def ask(folder, **parts):
    """Ask for an entry, check that it is the right one, and say whether it was computed."""
    made = []

    def compute():
        made.append(True)
        return entry()

    found = open_cache(folder).fetch("some thing", parts, compute)
    assert torch.equal(found.tensors["a"], entry().tensors["a"])
    assert found.tensors["b"].shape == ()
    assert found.facts == entry().facts
    return bool(made)


def told(folder, match):
    """Ask where the entry has to be computed and one warning is due."""
    with pytest.warns(CacheWarning, match=match) as caught:
        assert ask(folder)
    assert len(caught) == 1


def files(folder):
    return sorted(path for path in Path(folder, "fairsvd").rglob("*") if not path.is_dir())


def kept_file(folder):
    """Keep the entry, and give its file."""
    ask(folder)
    (path,) = files(folder)
    return path


def test_an_entry_is_found_again_and_lies_in_one_file(tmp_path):
    path = kept_file(tmp_path)
    assert path.parent.parent == tmp_path / "fairsvd" / "some-thing"
    assert [ask(tmp_path) for _ in range(2)] == [False, False]
    assert files(tmp_path) == [path]


@pytest.mark.parametrize("secret", [None, SECRET.encode()], ids=["checksum", "secret"])
def test_no_byte_can_change_and_none_can_be_missing_unseen(secret):
    whole = seal(entry(), "the key", secret)
    assert unseal(whole, "the key", secret).facts == entry().facts
    assert unseal(whole, "another key", secret) is None
    assert unseal(whole, "the key", b"another secret") is None
    changed = [whole[:k] + bytes([whole[k] ^ 1]) + whole[k + 1 :] for k in range(len(whole))]
    for data in (*changed, *(whole[:k] for k in range(len(whole))), whole + b"0"):
        assert unseal(data, "the key", secret) is None


# The first byte is a digit of a checksum that no test knows.
DAMAGE = [lambda d: d[:-1], lambda d: bytes([d[0] ^ 1]) + d[1:], lambda d: b""]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_computed_anew_and_written_again(tmp_path, damage):
    path = kept_file(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    told(tmp_path, "fails its check.*computed anew")
    assert path.read_bytes() == whole


def test_an_entry_in_the_place_of_another_is_not_used(tmp_path):
    first = kept_file(tmp_path)
    ask(tmp_path, x=1)
    (second,) = set(files(tmp_path)) - {first}
    shutil.copy(second, first)
    told(tmp_path, "fails its check")
    assert not ask(tmp_path)


# What may stand where an entry should, and what is said of it.
MISPLACED = {
    "text": (lambda path: path.write_text("text"), "fails its check"),
    "a pipe": (os.mkfifo, "is not a file.*computed anew"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "is not a file.*computed anew"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "ELOOP|symbolic.*anew"),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_something_else_in_its_place_is_replaced(tmp_path, what):
    put, match = MISPLACED[what]
    path = kept_file(tmp_path)
    path.unlink()
    put(path)
    told(tmp_path, match)
    assert not ask(tmp_path)
    assert path.is_file()
    assert not path.is_symlink()


def test_a_link_to_an_entry_is_read_and_one_to_nothing_is_replaced(tmp_path):
    path = kept_file(tmp_path / "one")
    elsewhere = path.rename(tmp_path / "elsewhere")
    path.symlink_to(elsewhere)
    assert not ask(tmp_path / "one")
    elsewhere.unlink()
    assert ask(tmp_path / "one")
    assert not path.is_symlink()


@pytest.mark.parametrize("level", [0, 1, 2], ids=["entry", "digits", "name"])
def test_where_nothing_can_be_written_the_fit_goes_on_with_one_warning(tmp_path, level):
    """A folder stands where the entry should, or a file where a folder should."""
    path = kept_file(tmp_path)
    if level == 0:
        path.unlink()
        path.mkdir()
    else:
        shutil.rmtree(path.parents[level - 1])
        path.parents[level - 1].write_text("")
    for _ in range(2):
        told(tmp_path, "cannot be written")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "open", "replace"])
def test_a_full_or_locked_disk_costs_one_warning_a_fit(tmp_path, monkeypatch, call, number):
    cache, made = open_cache(tmp_path), []

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr("fairsvd._files.open", fail, raising=False)
        else:
            patch.setattr(os, call, fail)
        with pytest.warns(CacheWarning, match=os.strerror(number)) as caught:
            for k in range(3):
                cache.fetch("thing", {"k": k}, lambda: made.append(1) or entry())
    assert (len(caught), len(made), files(tmp_path)) == (1, 3, [])
    assert ask(tmp_path)
    assert not ask(tmp_path)


def test_a_folder_that_is_deleted_meanwhile_is_made_again(tmp_path):
    cache = open_cache(tmp_path / "folder")
    shutil.rmtree(tmp_path / "folder")
    cache.fetch("some thing", {}, entry)
    assert not ask(tmp_path / "folder")


def test_tensors_that_have_no_format_are_not_kept(tmp_path):
    tensors = {"a": torch.zeros(2, dtype=torch.complex128)}
    with pytest.warns(CacheWarning, match="cannot be written.*complex128"):
        found = open_cache(tmp_path).fetch("thing", {}, lambda: Entry(tensors))
    assert found.tensors is tensors


class Bomb:
    """Makes a folder when it is unpickled, and then ends the process."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"import os, sys; os.mkdir({str(self.mark)!r}); sys.exit('executed')",)


def bombs(mark):
    """Files that run code in whoever reads them as what they are."""
    bomb, text = Bomb(mark), f"import os; os.mkdir({str(mark)!r})"
    yield pickle.dumps(bomb)
    yield hashlib.sha256(pickle.dumps(bomb)).hexdigest().encode() + pickle.dumps(bomb)
    yield text.encode()


def test_the_bombs_do_go_off(tmp_path):
    with pytest.raises(SystemExit):
        pickle.loads(next(bombs(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def fit(memory):
    settings = {"criterion": "curvature", "refine": None, "sparsity": 0.2}
    editor = quick(skorch_net(mlp()), memory=memory, **settings)
    return editor.fit(ROWS.X, ROWS.y, sensitive_features=ROWS.group)


@pytest.mark.parametrize("form", [str, joblib.Memory], ids=lambda each: each.__name__)
def test_a_folder_full_of_bombs_executes_nothing(tmp_path, form):
    """In the place of the entries, and where joblib kept those of earlier versions."""
    folder, mark = tmp_path / "folder", tmp_path / "mark"
    memory = form(str(folder), verbose=0) if form is joblib.Memory else str(folder)
    wanted = fit(memory).history_
    old = folder / "joblib/fairsvd/caching/_cache/cached_bytes"
    (old / ("0" * 32)).mkdir(parents=True)
    left = [old / "func_code.py", old / ("0" * 32) / "output.pkl", folder / "fairsvd" / "x.pkl"]
    entries = files(folder)
    assert len(entries) == 4
    for data in bombs(mark):
        for path in (*entries, *left):
            path.write_bytes(data)
        with pytest.warns(CacheWarning, match="fails its check"):
            assert fit(memory).history_.equals(wanted)
        assert not mark.exists()
    assert all(path.read_bytes() == data for path in left)


TEXT = torch.frombuffer(bytearray(b'{"key": 1, "facts": {}}'), dtype=torch.uint8)
FORGED = {
    "nothing": b"",
    "no tensors": b"x" * 100,
    "a header beyond the file": (2**60).to_bytes(8, "little") + b"{}",
    "no text": save({"a": torch.ones(1)}),
    "no json": save({"<text>": torch.ones(3, dtype=torch.uint8)}),
    "numbers for text": save({"<text>": torch.ones(3, dtype=torch.bfloat16)}),
    "another key": save({"<text>": TEXT}),
    "a list": save({"<text>": torch.frombuffer(bytearray(b"[1]"), dtype=torch.uint8)}),
    "deep": save({"<text>": torch.frombuffer(bytearray(b"[" * 10**5), dtype=torch.uint8)}),
}


@pytest.mark.parametrize("body", FORGED.values(), ids=FORGED)
def test_what_has_the_right_checksum_may_still_be_anything(tmp_path, body):
    path = kept_file(tmp_path)
    path.write_bytes(hashlib.sha256(body).hexdigest().encode() + body)
    told(tmp_path, "fails its check")


# The secret.


def test_with_a_secret_only_entries_sealed_with_it_are_used(tmp_path, monkeypatch):
    plain = kept_file(tmp_path)
    monkeypatch.setenv("FAIRSVD_MEMORY_KEY", SECRET)
    assert [ask(tmp_path), ask(tmp_path)] == [True, False]  # found under another name
    (secret,) = set(files(tmp_path)) - {plain}
    shutil.copy(plain, secret)
    told(tmp_path, "fails its check")
    monkeypatch.setenv("FAIRSVD_MEMORY_KEY", SECRET[::-1])
    assert [ask(tmp_path), ask(tmp_path)] == [True, False]
    monkeypatch.delenv("FAIRSVD_MEMORY_KEY")
    assert not ask(tmp_path)
    assert len(files(tmp_path)) == 3


def test_a_secret_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRSVD_MEMORY_KEY", SECRET)
    ask(tmp_path)
    cache = pickle.dumps(open_cache(tmp_path))
    editor = pickle.dumps(fit(str(tmp_path)))
    for data in (cache, editor, *(path.read_bytes() for path in files(tmp_path))):
        assert SECRET.encode() not in data


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_short_secret_is_refused(tmp_path, monkeypatch, secret):
    monkeypatch.setenv("FAIRSVD_MEMORY_KEY", secret)
    with pytest.raises(ValueError, match=r"FAIRSVD_MEMORY_KEY.*at least 16"):
        open_cache(tmp_path)


# What memory= may be.


def refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere/at/all")
    yield "", "names nothing"
    yield " ", "names nothing"
    yield "s3://bucket/folder", "is a URL"
    yield "file:///tmp/folder", "is a URL"
    yield "~nobody-here/x", "a user that does not exist"
    yield tmp_path / "file", "memory=.*cannot be used as a folder"
    yield tmp_path / "file" / "below", "memory=.*cannot be used as a folder"
    yield tmp_path / "link", "memory=.*cannot be used as a folder"
    yield "/dev/null/x", "memory=.*cannot be used as a folder"
    yield "a\0b", "memory=.*cannot be used as a folder"
    yield "x" * 300, "memory=.*cannot be used as a folder"
    yield 3, "memory"
    yield b"folder", "memory"
    yield ["folder"], "memory"
    yield True, "memory"
    yield nn.Identity(), "memory"


def test_what_is_no_folder_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("fairsvd.base._editor.read_fit_inputs", None)
    for memory, match in refused(tmp_path):
        with pytest.raises(ValueError, match=match):
            fit(memory)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    """As a user without rights would find it: root may write everywhere."""

    def locked(path, mode=0o777):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "mkdir", locked)
    with pytest.raises(ValueError, match=r"memory=.*Permission denied.*files can be made"):
        open_cache(tmp_path)


def test_a_store_of_joblib_that_is_no_folder_is_refused():
    memory = joblib.Memory(None)
    memory.backend, memory.store_backend = "cloud", object()
    with pytest.raises(ValueError, match=r"joblib.Memory.*'cloud'"):
        open_cache(memory)


def test_every_way_to_name_a_folder_leads_to_it(tmp_path, monkeypatch):
    home = tmp_path / "größe 大 folder"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    (tmp_path / "link").symlink_to(home, target_is_directory=True)
    assert ask("~/kept")
    ways = ("kept", "./kept/", home / "kept", Path("~/kept"), str(tmp_path / "link" / "kept"))
    for way in (*ways, joblib.Memory("~/kept", verbose=0), joblib.Memory(home / "kept", verbose=0)):
        assert not ask(way), way
    monkeypatch.chdir(tmp_path)
    assert ask("kept")  # another folder
    assert open_cache(None) == open_cache(joblib.Memory(None)) == Cache()


# Files that nobody needs any more.


def test_files_of_killed_processes_are_deleted_and_those_of_living_ones_are_not(tmp_path):
    ask(tmp_path)
    unfinished = tmp_path / "fairsvd" / "unfinished"
    for name, age in (("old", 2 * 3600), ("young", 60), ("new", 0), ("ahead", -3600)):
        path = unfinished / f".fairsvd-{name}.tmp"
        path.write_text("")
        os.utime(path, (time.time() - age,) * 2)
    assert not ask(tmp_path)
    left = {path.name.split("-")[1] for path in unfinished.iterdir()}
    assert left == {"young.tmp", "new.tmp", "ahead.tmp"}


def test_an_interrupt_while_an_entry_is_written_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask(tmp_path)
    assert files(tmp_path) == []


def test_many_writers_of_one_key_do_not_disturb_each_other(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: ask(tmp_path, k=k % 2), range(64)))
    assert len(files(tmp_path)) == 2
    assert not ask(tmp_path, k=0)


def test_the_entries_read_last_stay(tmp_path):
    paths = []
    for k in range(4):
        ask(tmp_path, k=k)
        (new,) = set(files(tmp_path)) - set(paths)
        paths.append(new)
        os.utime(new, (time.time() - 86400 * (4 - k),) * 2)
    size = paths[0].stat().st_size
    reduce_size(tmp_path)
    assert files(tmp_path) == sorted(paths)
    reduce_size(str(tmp_path), bytes_limit=3 * size)
    assert files(tmp_path) == sorted(paths[1:])
    reduce_size(joblib.Memory(tmp_path, verbose=0), age_limit=timedelta(days=1.5))
    assert files(tmp_path) == [paths[3]]
    reduce_size(tmp_path, bytes_limit=0)
    assert files(tmp_path) == []
    with pytest.raises(ValueError, match="None"):
        reduce_size(None)
