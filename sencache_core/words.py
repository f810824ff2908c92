"""What is said to users: a key with values. The English of each key is one line of words.json.

To add a message, write its line there, under the level that it has, and say it:
``report.say("key", name=value)``. Then ``python tools/tables.py`` tells the web of it.
"""

from __future__ import annotations

import json
import re
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: From the most urgent on: the user must act; worth knowing; folded away until asked for. A part is
#: said within another message only.
LEVELS = ("problem", "note", "detail", "part")

_BY_LEVEL: dict[str, dict[str, str]] = json.loads(
    Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
)
#: English by key; where there is a ``count``, by ``key_one`` and ``key_other``.
ENGLISH = {key: text for level in LEVELS for key, text in _BY_LEVEL[level].items()}
_LEVEL = {key: level for level in LEVELS for key in _BY_LEVEL[level]}
_NAME = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Message:
    """One thing to say, in whatever language. Its ``str()`` is the English sentence.

    Attributes:
        key: of its line in ``words.json``.
        values: by the names in that line: numbers, texts, other messages, or lists of these.
            ``count`` chooses between singular and plural.

    Raises:
        ValueError: there is no such line, or it names a value that is not given.
    """

    key: str
    values: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self._line not in ENGLISH:
            raise ValueError(f"words.json has no line {self._line!r}")
        if missing := set(_NAME.findall(ENGLISH[self._line])) - set(self.values):
            raise ValueError(f"the message {self.key!r} lacks {', '.join(sorted(missing))}")

    @classmethod
    def of(cls, key: str, /, **values: Any) -> Message:
        """The message of ``key`` with these values."""
        return cls(key, values)

    @property
    def level(self) -> str:
        """One of :data:`LEVELS`."""
        return _LEVEL[self._line]

    @property
    def _line(self) -> str:
        if "count" not in self.values:
            return self.key
        return f"{self.key}_{'one' if self.values['count'] == 1 else 'other'}"

    def __str__(self) -> str:
        return _NAME.sub(lambda name: _shown(self.values[name[1]]), ENGLISH[self._line])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``{"key", "values", "text", "level"}``."""
        values = {name: _plain(value) for name, value in self.values.items()}
        return {"key": self.key, "values": values, "text": str(self), "level": self.level}


class Speaker:
    """Has ``messages``, each once, the most urgent first."""

    messages: list[Message]

    def say(self, message: Message | str, /, **values: Any) -> None:
        """Tell the user of a message, or of the one that has this key and these values."""
        message = Message(message, values) if isinstance(message, str) else message
        if message not in self.messages:
            insort(self.messages, message, key=lambda one: LEVELS.index(one.level))

    @property
    def texts(self) -> list[str]:
        """The messages in English."""
        return [str(message) for message in self.messages]


def about(value: float, digits: int = 3) -> float:
    """``value`` to so many significant digits."""
    return float(f"{value:.{digits}g}")


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.to_dict() if isinstance(value, Message) else value
