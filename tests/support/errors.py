"""Assertions about errors and warnings: the type, and the facts in the message."""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def raises(error: type[Exception], *facts: Any) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error of exactly this type, with these facts in its message, which is one line.

    Facts are what a user needs in any wording: the file, the option, the value, the name. The
    message may contain them in any order.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert caught.type is error
    assert_names(str(caught.value), *facts)


def assert_names(message: str, *facts: Any) -> None:
    """Check that a message is one line that contains these facts.

    A number (`int`) must not be part of another number, or of another fact such as a path.
    """
    assert "\n" not in message
    texts = [str(fact) for fact in facts if not isinstance(fact, int)]
    missing = [text for text in texts if text not in message]
    rest = message
    for text in sorted(texts, key=len, reverse=True):
        rest = rest.replace(text, " ")
    numbers = [str(fact) for fact in facts if isinstance(fact, int)]
    missing += [n for n in numbers if not re.search(rf"(?<![\d.,]){n}(?![.,]?\d)", rest)]
    assert not missing, f"{missing} not in: {message}"


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return the messages that the program logged at this level."""
    records = [record for record in caplog.records if record.name.startswith("bilinear_cli")]
    return [record.getMessage() for record in records if record.levelno == level]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the warnings that the program logged."""
    return messages(caplog, logging.WARNING)


def assert_suggests(message: str, nearest: str, known: Iterable[str]) -> None:
    """Check that a message contains the nearest of the known names before any other of them."""
    positions = [(message.find(name), name) for name in known if name in message]
    assert min(positions)[1] == nearest, message
