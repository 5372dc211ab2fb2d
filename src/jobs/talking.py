"""A conversation in a terminal: prompts are asked for until end of file, and each is answered as generate.py does."""

from __future__ import annotations

import sys
from contextlib import suppress

from jobs.generating import Generator, continued, introduced, seed_batch
from jobs.telling import Continuation, counted
from tasks.chats import Turn
from util import AdditionalArguments, ModelArguments
from util.generate_args import GenerateArguments
from util.terminal import reason

# What is shown before a prompt, and before a further line of one.
ASKED, FURTHER = "> ", ". "
# A prompt that has the earlier turns forgotten.
NEW = "/new"
HOW = "a line that ends in \\ goes on, Ctrl-C ends an answer, Ctrl-D everything"


def converse(
    model_args: ModelArguments, args: GenerateArguments, additional_args: AdditionalArguments
) -> list[Continuation]:
    """Ask for prompts and answer them until end of file."""
    generator = introduced(model_args, args, additional_args, greeting)
    sys.stdin.reconfigure(errors="replace")
    with suppress(ImportError):
        import readline  # noqa: F401 - edits lines and keeps those before
    conversation = Conversation(generator)
    while (prompt := asked()) is not None:
        conversation.answer(prompt)
    print()
    return conversation.found


def greeting(generator: Generator) -> str:
    """What a conversation is with this model, in words."""
    kept = f"Earlier turns are kept, {NEW} forgets them" if generator.chats else "Each prompt is continued by itself"
    return f"{kept}; {HOW}."


def asked() -> str | None:
    """The next prompt; None at end of file. Ctrl-C drops what was typed."""
    lines: list[str] = []
    while True:
        try:
            line = input(FURTHER if lines else ASKED)
        except EOFError:
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:
            print()
            lines = []
            continue
        lines.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            return "\n".join(lines)


class Conversation:
    """Answers prompts one after the other.

    Attributes:
        turns: What was said, where the tokenizer has a chat template.
        found: All answers.
    """

    def __init__(self, generator: Generator):
        self.generator = generator
        self.turns: list[Turn] = []
        self.found: list[Continuation] = []

    def answer(self, prompt: str) -> None:
        """Answer a prompt, which may be interrupted: what is interrupted was never said."""
        if self.generator.chats and prompt.strip() == NEW:
            self.turns = []
            return
        if not prompt.strip():
            return
        try:
            self._make_room(prompt)
            seed_batch(self.generator, len(self.found))
            (found,) = continued(self.generator, [prompt], alone=True, echo=False, earlier=self.turns)
        except KeyboardInterrupt:
            print("Interrupted; the prompt is forgotten.", file=sys.stderr)
        except ValueError as error:  # such as of a prompt longer than the model reads
            print(reason(error), file=sys.stderr)
        else:
            self.found.append(found)
            if self.generator.chats:
                said = found.text.strip()
                turn = [{"role": "user", "content": prompt}, {"role": "assistant", "content": said}]
                self.turns = [*self.turns, *turn]

    def _make_room(self, prompt: str) -> None:
        """Forget the oldest turns where the model's positions do not suffice for all of them and the answer."""
        positions = getattr(self.generator.model.config, "max_position_embeddings", None)
        room = None if positions is None else positions - self.generator.args.max_new_tokens
        before = len(self.turns)
        while self.turns and room is not None and len(self.generator.ids(prompt, self.turns)) > room:
            self.turns = self.turns[2:]
        if forgotten := (before - len(self.turns)) // 2:
            told = f"There is no room for {counted(forgotten, 'turn')} of the beginning any more: forgotten."
            print(told, file=sys.stderr)
