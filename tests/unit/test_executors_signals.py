from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from igds.executors.signals import held_signals

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Came(Exception):
    """What the handler of these tests raises."""


def handler(number: int, _frame: object) -> None:
    raise Came(number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in NUMBERS}
    yield
    for number, was in before.items():
        signal.signal(number, was)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_comes_when_the_block_is_done(number: int) -> None:
    done = False
    with pytest.raises(Came, match=str(int(number))), held_signals():
        signal.raise_signal(number)
        done = True
    assert done
    assert [signal.getsignal(one) for one in NUMBERS] == [handler, handler]


def test_a_signal_is_not_lost_in_a_block_that_fails() -> None:
    with pytest.raises(Came) as raised, held_signals():
        signal.raise_signal(signal.SIGINT)
        raise OSError
    assert isinstance(raised.value.__context__, OSError)
    assert [signal.getsignal(one) for one in NUMBERS] == [handler, handler]


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with held_signals():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGINT) is handler


def test_another_thread_holds_nothing() -> None:
    found = []

    def look() -> None:
        with held_signals():
            found.extend(signal.getsignal(one) for one in NUMBERS)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [handler, handler]
