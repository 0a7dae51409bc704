"""stderr as a log or a terminal, and what was written to it."""

from __future__ import annotations

import io
from types import SimpleNamespace

from fairsvd.base import _progress


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self):
        return True


def redirect(monkeypatch, stream):
    # Not sys.stderr, which pytest sets anew between a fixture and its test.
    monkeypatch.setattr(_progress, "sys", SimpleNamespace(stderr=stream))
    return stream


def plain_log(monkeypatch):
    """stderr that is no terminal."""
    return redirect(monkeypatch, io.StringIO())


def drawn_terminal(monkeypatch):
    """stderr that is a terminal, to which every state is drawn."""
    monkeypatch.setattr(_progress, "BAR_INTERVAL", 0)
    return redirect(monkeypatch, Terminal())


def lines_of(log):
    """Complete lines without anything that moves a cursor."""
    text = log.getvalue()
    assert text == "" or text.endswith("\n")
    assert not set(text) & {"\r", "\x1b"}
    lines = text.splitlines()
    assert all(line.strip() == line != "" for line in lines)
    return lines


def states_of(terminal):
    """What a bar has shown, one state after the other."""
    text = terminal.getvalue()
    assert text.startswith("\r") and text.endswith("\n") and text.count("\n") == 1
    return [state.rstrip() for state in text[1:].split("\r")]
