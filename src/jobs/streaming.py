"""An answer in a terminal while it comes: its text token by token, and behind it, in grey, drafts to be verified."""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Callable, Sequence

from torch import Tensor

from decoding.stops import before

# Of a terminal: keep the place of the cursor; go back there and clear the line behind it; grey; no colour.
KEEP, BACK, GREY, PLAIN = "\0337", "\0338\033[K", "\033[38;5;245m", "\033[0m"
# Half of a character, whose other bytes are in the next token.
HALF = "\ufffd"


class AnswerStreamer:
    """Writes one answer to standard output; a `decoding.sequences.Streamer`.

    What may be the beginning of an end is held until it is known not to be, so that no end is shown.

    Args:
        read: Tokens of the answer to their text.
        ends: Texts that end it.
        start: What stands there already.

    Attributes:
        tokens: Those that stand.
    """

    def __init__(self, read: Callable[[list[int]], str], ends: Sequence[str], start: str = ""):
        self.read, self.ends = read, ends
        self.tokens: list[int] = []
        self._written, self._line = "", start.rpartition("\n")[2]
        self._drafted = self._ended = False

    def put(self, value: Tensor) -> None:
        """The next token, [1]; what the decoder starts from, [1, P], is none of the answer."""
        if value.dim() == 1:
            self.tokens += value.tolist()
            self._write(settled(self._text(self.tokens), self.ends))

    def end(self) -> None:
        """No token comes any more."""
        if not self._ended:
            self._write(self._text(self.tokens))
            self._erase()
            self._say("\n")
            self._ended = True

    def _text(self, tokens: list[int]) -> str:
        return before(self.read(tokens), self.ends)

    def _write(self, text: str) -> None:
        new = text[len(self._written) :]
        if new:
            self._erase()
            self._say(new)
            self._written = text
            self._line = (self._line + new).rpartition("\n")[2]

    def _erase(self) -> None:
        if self._drafted:
            self._say(BACK)
            self._drafted = False

    @staticmethod
    def _say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class DraftStreamer(AnswerStreamer):
    """The same, which shows drafts in grey until they are verified; that takes control codes."""

    def draft(self, value: Tensor) -> None:
        """The tokens behind those that stand, [1, n], that are not verified yet."""
        self._erase()
        text = self._text([*self.tokens, *value[0].tolist()])[len(self._written) :]
        shown = fitting(text.partition("\n")[0].rstrip(HALF), self._room())
        if value.shape[1] and shown:
            self._say(f"{KEEP}{GREY}{shown}{PLAIN}")
            self._drafted = True

    def _room(self) -> int:
        """Columns to the end of the line, less one: a draft that began a new line could not be taken back."""
        columns = shutil.get_terminal_size().columns
        return columns - width(self._line) % columns - 1


def settled(text: str, ends: Sequence[str]) -> str:
    """What of a text stays whatever comes behind it: without half a character, and without the beginning of an end."""
    whole = text.rstrip(HALF)
    begun = [size for end in ends for size in range(1, len(end)) if whole.endswith(end[:size])]
    return whole[: len(whole) - max(begun, default=0)]


def fitting(text: str, columns: int) -> str:
    """The beginning of a text that takes so many columns of a terminal at most."""
    size = next((size for size in range(len(text)) if width(text[: size + 1]) > columns), len(text))
    return text[:size]


def width(text: str) -> int:
    """Columns that a line of text takes in a terminal, a tab at most."""
    return sum(8 if each == "\t" else _width(each) for each in text)


def _width(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf", "Cc"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
