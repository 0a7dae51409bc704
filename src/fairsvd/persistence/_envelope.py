"""The file of a model: tensors and a JSON text as safetensors, with the checksum at the start."""

from __future__ import annotations

import hmac
import json
import re
import struct
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from .._files import digest
from ..exceptions import DamagedModelError, ModelFileError, UntrustedError

__all__ = ["FORMAT", "seal", "unseal"]

# Raise it when files of the new form cannot be read by the old code.
FORMAT = 1

# The start of every file, after the eight bytes of safetensors for the header's length. It stands
# at a fixed place, so that the checksum is compared before anything else is read.
START = '{{"__metadata__":{{"fairsvd_format":"{format}","keyed":"{keyed}","digest":"{digest}",'
PATTERN = re.compile(
    rb'\{"__metadata__":\{"fairsvd_format":"(\d{1,9})","keyed":"(yes|no)","digest":"([0-9a-f]{64})"'
)
BLANK = "0" * 64


def seal(tensors: Mapping[str, Tensor], facts: Mapping[str, str], key: bytes | None) -> bytes:
    """Make the bytes of a file that every reader of safetensors can open.

    Parameters
    ----------
    tensors : mapping of name to Tensor
        On the CPU and contiguous.
    facts : mapping of str to str
        What the file says of itself to readers that do not load it.
    key : bytes or None
        None: the checksum is a SHA-256, else an HMAC with the key.
    """
    body = save_tensors(dict(tensors))
    (length,) = struct.unpack("<Q", body[:8])
    rest = json.dumps({"__metadata__": dict(facts), **json.loads(body[8 : 8 + length])})
    start = START.format(format=FORMAT, keyed="yes" if key else "no", digest=BLANK)
    header = (start + rest.removeprefix('{"__metadata__": {')).encode()
    header += b" " * (-len(header) % 8)  # so that the tensors' bytes stay aligned
    blank = struct.pack("<Q", len(header)) + header + body[8 + length :]
    return blank.replace(BLANK.encode(), digest(blank, key).encode(), 1)


def unseal(data: bytes, key: bytes | None) -> dict[str, Tensor]:
    """Check the bytes of a file, then read its tensors.

    Raises
    ------
    DamagedModelError
        The checksum does not fit.
    UntrustedError
        The file has a key and none was given, or the other way round.
    ModelFileError
        The file is of a later form.
    """
    found = PATTERN.match(data, 8)
    if found is None:
        raise DamagedModelError(f"the file was not written by fairsvd.save{_guess(data)}.")
    if int(found[1]) > FORMAT:
        raise ModelFileError(
            f"the file has the format {int(found[1])}, and this version of fairsvd reads formats "
            f"up to {FORMAT}: load it with a later version."
        )
    _check_key(found[2] == b"yes", key)
    start, end = found.span(3)
    blank = b"".join([data[:start], BLANK.encode(), data[end:]])
    if not hmac.compare_digest(digest(blank, key).encode(), found[3]):
        other = " or signed with another key" if key else ""
        raise DamagedModelError(
            f"the checksum does not fit the content: the file was altered, is not complete,{other} "
            "or was damaged on its way. Get it again from where it was saved."
        )
    return _read(data)


def _guess(data: bytes) -> str:
    if not data:
        return ": it is empty"
    if data[:1] == b"\x80" or data[:2] == b"PK":
        return ": it may be a pickle, which joblib.load or torch.load would run"
    return ", or its first bytes were altered"


def _check_key(keyed: bool, key: bytes | None) -> None:
    if keyed and key is None:
        raise UntrustedError("the file was saved with a key: pass the same key= to load it.")
    if key is not None and not keyed:
        raise UntrustedError(
            "the file was saved without a key, so key= cannot prove where it comes from: load it "
            "without key=, or get one that was saved with this key."
        )


def _read(data: bytes) -> dict[str, Tensor]:
    """Read the tensors; the checksum fits, but whoever wrote the file could make any checksum."""
    try:
        (length,) = struct.unpack("<Q", data[:8])
        # Twice the same name: readers would disagree about what the file holds.
        json.loads(data[8 : 8 + length], object_pairs_hook=without_repeats)
        tensors: dict[str, Tensor] = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, RecursionError) as error:
        raise DamagedModelError(f"the file is no valid safetensors file: {error}") from error
    return tensors


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of a JSON object that names nothing twice."""
    named = dict(pairs)
    if len(named) < len(pairs):
        raise DamagedModelError("the file names an entry twice.")
    return named
