from __future__ import annotations

import io

import pytest

from igds.progress import PlainProgress, RichProgress, SilentProgress, make_progress

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_say_start_and_end(capsys: Capture) -> None:
    progress = PlainProgress()
    with progress.task("score", 10) as handle:
        for _ in range(10):
            handle.advance()
    progress.note("done")
    shown = capsys.readouterr()
    first, last, note = shown.err.splitlines()
    assert first == "score: 0 of 10"
    assert last.startswith("score: 10 done in ")
    assert note == "done"
    assert shown.out == ""


def test_plain_lines_have_rate_and_time_left(capsys: Capture) -> None:
    with PlainProgress(every=0.0).task("score", 4) as handle:
        handle.advance(1)
    shown = capsys.readouterr().err
    assert all(part in shown for part in ("score: 1 of 4, ", "s left, ", " a second"))


def test_a_task_that_raises_is_not_called_done(capsys: Capture) -> None:
    with pytest.raises(KeyError), PlainProgress().task("score", None):
        raise KeyError
    assert "done" not in capsys.readouterr().err


def test_a_bar_counts_and_notes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    progress = RichProgress()
    with progress.task("score", 3) as handle:
        handle.advance(2)
        progress.note("[bold] is text here")
        handle.advance(1)
    assert "3/3" in stream.getvalue()
    assert "[bold] is text here" in stream.getvalue()


def test_silence(capsys: Capture) -> None:
    with SilentProgress().task("score", 3) as handle:
        handle.advance()
    SilentProgress().note("nothing")
    assert capsys.readouterr().err == ""


def test_the_form_follows_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert isinstance(make_progress(), PlainProgress)
    monkeypatch.setattr("sys.stderr", Terminal())
    assert isinstance(make_progress(), RichProgress)
