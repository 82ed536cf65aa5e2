"""Errors checked by their facts: the type, and what the one line names."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def raises(error: type[Exception], *facts: Any) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error of exactly this type, whose one line names these facts.

    Facts are what a user needs and no wording can do without: the file, the option, the value, the
    name. They are looked for as text, in any order.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert caught.type is error
    assert_names(str(caught.value), *facts)


def assert_names(message: str, *facts: Any) -> None:
    """Check that a message is one line that names these facts.

    A number (`int`) has to stand by itself: digits within another number, or within another fact
    such as a path, do not count.
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


def assert_suggests(message: str, nearest: str, known: Iterable[str]) -> None:
    """Check that a message names the nearest of the known names before any other of them."""
    places = [(message.find(name), name) for name in known if name in message]
    assert min(places)[1] == nearest, message
