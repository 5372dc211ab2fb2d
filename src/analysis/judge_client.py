"""A judge behind an OpenAI-compatible endpoint: one question at a time, limited, repeated where it may help.

No key, nor a message of a server that holds it, gets beyond this file.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

# A body beyond this is no answer to what is asked here.
LONGEST_BODY = 2**20  # bytes
# Seconds between tries: the first pause, which doubles, and the longest.
PAUSE, LONGEST_PAUSE = 1.0, 60.0
# Seconds that a server may ask to wait for.
LONGEST_WAIT = 600.0
# Statuses behind which the same question may be answered.
PASSING = {408, 409, 425, 429}


class Unanswered(ValueError):
    """A question that no try got an answer to; the sentence says why."""


class _Again(Exception):
    """What may go well at the next try, and how long a server says to wait, in seconds."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: the key is for the server that was named."""

    def redirect_request(self, *given):
        return None


@dataclass(frozen=True)
class Reply:
    """What the judge said, and the tokens it counted: of the question and of the answer, 0 where it did not."""

    text: str
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass
class Judge:
    """Asks a model, at temperature 0.

    Args:
        base_url: Of the endpoint, up to /chat/completions.
        key: Sent as a bearer token; None sends none.
        per_minute: Questions at most; a repeated one counts.
        tries: Of a question at most.
        timeout: Seconds for one try.
        longest: Tokens of an answer at most.
        clock, sleep: Of the time module.

    Raises:
        ValueError: The address or the key cannot be used.
    """

    base_url: str
    model: str
    key: str | None = field(default=None, repr=False)
    per_minute: float = 60.0
    tries: int = 6
    timeout: float = 120.0
    longest: int = 200
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self):
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("--base_url is the address of an endpoint, such as http://localhost:8000/v1.")
        if parts.username or parts.password or parts.query:
            raise ValueError("--base_url holds no user, password or query: a key comes from the environment.")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise ValueError("The key in the environment holds characters that no key has, such as a space.")
        self.base_url = self.base_url.rstrip("/")
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._next = self.clock()

    def ask(self, messages: list[dict]) -> Reply:
        """The reply to a conversation.

        Raises:
            Unanswered: The server refuses, or no try got an answer.
        """
        pause = PAUSE
        for number in range(1, self.tries + 1):
            try:
                return self._try(messages)
            except _Again as error:
                if number == self.tries:
                    raise Unanswered(f"{self.base_url} gave no answer in {self.tries} tries: {error}.") from None
                self.sleep(min(LONGEST_WAIT, error.wait) if error.wait is not None else pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("there is a first try")

    def safe(self, text: str) -> str:
        """A text without the key."""
        return text.replace(self.key, "[key]") if self.key else text

    def _try(self, messages: list[dict]) -> Reply:
        self._wait_for_turn()
        asked = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.longest}
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(f"{self.base_url}/chat/completions", json.dumps(asked).encode(), headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return self._read(self._body(response))
        except urllib.error.HTTPError as error:
            self._judge_status(error)
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, no HTTP
            raise _Again(self.safe(str(getattr(error, "reason", None) or error or type(error).__name__))) from None
        raise AssertionError("a status is passing or not")

    def _wait_for_turn(self) -> None:
        """Returns when a question may be asked; pauses between tries count."""
        now = self.clock()
        if now < self._next:
            self.sleep(self._next - now)
        self._next = max(now, self._next) + 60.0 / self.per_minute

    def _body(self, response: http.client.HTTPResponse) -> bytes:
        """The body, within the time of a try: a socket's timeout alone lets a server go on that sends byte by byte."""
        ends, body = self.clock() + self.timeout, b""
        while part := response.read1(2**16):
            body += part
            if self.clock() > ends:
                raise TimeoutError("timed out")
            if len(body) > LONGEST_BODY:
                raise _Again(f"an answer of more than {LONGEST_BODY} bytes")
        return body

    def _read(self, body: bytes) -> Reply:
        try:
            held = json.loads(body)
            text = held["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError):
            text = None
        if not isinstance(text, str):
            raise _Again("what it sent is no chat completion")
        usage = held.get("usage")
        counts = [_count(usage, name) for name in ("prompt_tokens", "completion_tokens")]
        return Reply(self.safe(text), *counts)

    def _judge_status(self, error: urllib.error.HTTPError) -> None:
        """Raises what follows from a status."""
        if error.code in PASSING or error.code >= 500:
            raise _Again(f"status {error.code}", _seconds(error.headers.get("Retry-After"))) from None
        try:
            said = error.read(2**16).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            said = ""
        said = " ".join(self.safe(said).split())[:200]
        raise Unanswered(f"{self.base_url} refuses with status {error.code}: {said or 'without a word'}") from None


def _count(usage, name: str) -> int:
    """A number of tokens in what a server says of them, 0 where there is none."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) else 0


def _seconds(told: str | None) -> float | None:
    """Of a Retry-After: seconds, or a date; None where it is neither."""
    if told is None:
        return None
    try:
        return max(0.0, float(told)) if told.strip().isdigit() else max(0.0, _until(told))
    except (ValueError, TypeError, OverflowError):
        return None


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()
