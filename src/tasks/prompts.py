"""Prompts of models without an encoder: examples in a template, or in the turns of a chat template, cut to fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from tasks.chats import Turn, refuse_without_template, rendered
from tasks.features import shared_length, special_ids
from tasks.shots import Example
from tasks.templates import Template

# Between the instruction, the examples shown and the one that is asked.
BETWEEN = "\n\n"
END_OF_LINE = "\n"
ADVICE = "leave out --apply_chat_template"


class Prompt(NamedTuple):
    """Attributes:
    text: As the tokenizer is given it.
    ids: Its tokens, with what goes before a text.
    cut: Whether something of it was left out.
    """

    text: str
    ids: list[int]
    cut: bool


class PromptWriter:
    """Writes the prompts of a task.

    A prompt that fits is tokenised whole, so its ids are the tokenizer's own. In a longer one the examples' long parts
    lose their beginnings, those of the examples shown before that of the one that is asked; examples are left out, the
    first one first, where the last long part would have less than a quarter of the room. Instruction, questions and
    answers stay whole.

    Args:
        template: With placeholders that are `fields` or `words`.
        fields: Placeholder -> the column of an example that it stands for.
        words: Placeholder -> what it stands for in every example.
        chat: Each example is a turn of the user and one of the assistant, in the tokenizer's chat template; the
            instruction stands in the first.

    Raises:
        ValueError: There is no chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        fields: Mapping[str, str],
        words: Mapping[str, str],
        chat: bool = False,
    ):
        self.tokenizer, self.template, self.fields, self.words, self.chat = tokenizer, template, fields, words, chat
        if chat:
            refuse_without_template(tokenizer)
        # A chat template writes them itself.
        self.before = [] if chat else special_ids(tokenizer)[0]

    # --------------------------------------------------------------------------------------------------------- writing
    def text(self, shots: Sequence[Example], example: Example) -> str:
        """The prompt of an example behind others with their answers."""
        if self.chat:
            return rendered(self.tokenizer, self._turns(shots, example), advice=ADVICE)
        shown = [self._question(shot) + self.template.gap + self._answer(shot) for shot in shots]
        instruction = self.template.told(self.words)
        return BETWEEN.join([*([instruction] if instruction else []), *shown, self._question(example)])

    def answered(self, shots: Sequence[Example], example: Example, prompt: str) -> str:
        """The prompt with its answer, and what ends that in a chat template."""
        answer = self._answer(example)
        if not self.chat:
            return prompt + self.template.gap + answer
        turns = [*self._turns(shots, example), {"role": "assistant", "content": answer}]
        whole = rendered(self.tokenizer, turns, asks=False, advice=ADVICE)
        return whole if whole.startswith(prompt) else prompt + answer

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of prompts, with what goes before a text."""
        return [[*self.before, *ids] for ids in self._plain(texts)]

    def _plain(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []

    def _question(self, example: Example) -> str:
        values = {name: self.template.value(example[column]) for name, column in self.fields.items()}
        return self.template.question(values | dict(self.words))

    def _answer(self, example: Example) -> str:
        return self.template.answer(example["target"])

    def _turns(self, shots: Sequence[Example], example: Example) -> list[Turn]:
        turns: list[Turn] = []
        for shot in shots:
            turns.append({"role": "user", "content": self._question(shot)})
            turns.append({"role": "assistant", "content": self._answer(shot)})
        turns.append({"role": "user", "content": self._question(example)})
        instruction = self.template.told(self.words)
        if instruction:
            turns[0] = {"role": "user", "content": instruction + BETWEEN + turns[0]["content"]}
        return turns

    # --------------------------------------------------------------------------------------------------------- fitting
    def fitted(self, shots: Sequence[Example], example: Example, room: int | None) -> tuple[list[Example], Prompt]:
        """The prompt of an example in at most `room` tokens, and what it shows: the shots, and the example last.

        Raises:
            ValueError: There is no room for instruction and question.
        """
        text = self.text(shots, example)
        (ids,) = self.ids([text])
        shown = [*shots, example]
        if room is None or len(ids) <= room:
            return shown, Prompt(text, ids, False)
        long = self._plain([self.template.value(each["source"]) for each in shown])
        first = self._left_out(shown, len(long[-1]), room)
        shown, long = shown[first:], long[first:]
        frame = self._frame(shown)
        budget = room - frame
        while budget >= 0:
            kept = shares([len(each) for each in long], budget)
            cut = [self._tail(*each) for each in zip(shown, long, kept, strict=True)]
            text = self.text(cut[:-1], cut[-1])
            (ids,) = self.ids([text])
            if len(ids) <= room:
                return cut, Prompt(text, ids, True)
            budget = min(budget - 1, max(0, budget - (len(ids) - room)))  # a seam may take a token more than its parts
        raise ValueError(
            f"The prompt of example {example['id']!r} has {frame} tokens without its text, and there is room for "
            f"{room}: shorten the template or the answers, or give a model that reads longer texts."
        )

    def _left_out(self, shown: Sequence[Example], own: int, room: int) -> int:
        """How many of the first examples shown are left out, so that the last long part, of so many tokens, has a
        quarter of the room."""
        wanted = min(own, math.ceil(room / 4))
        counts = range(len(shown))
        return next((first for first in counts if self._frame(shown[first:]) + wanted <= room), len(shown) - 1)

    def _frame(self, shown: Sequence[Example]) -> int:
        """Tokens of a prompt without its long parts."""
        *shots, example = ({**each, "source": ""} for each in shown)
        return len(self.ids([self.text(shots, example)])[0])

    def _tail(self, example: Example, ids: list[int], count: int) -> Example:
        """An example of whose long part, of these tokens, the last `count` are left."""
        if count >= len(ids):
            return example
        text = self.tokenizer.decode(ids[len(ids) - count :], clean_up_tokenization_spaces=False) if count else ""
        return {**example, "source": text.lstrip("\ufffd")}  # of a character whose first bytes are gone

    # -------------------------------------------------------------------------------------------------------- learning
    def labels(self, shown: Sequence[Example], prompt: Prompt, limit: int) -> tuple[list[int], bool]:
        """Tokens of the answer behind a prompt, at most `limit` with the one that ends it, and whether that cut it."""
        whole = self.answered(shown[:-1], shown[-1], prompt.text)
        (ids,) = self.ids([whole])
        if shared_length(prompt.ids, ids) == len(prompt.ids):
            ids = ids[len(prompt.ids) :]
        else:  # the prompt is read as it will be where its answer is not known
            ids = self._inside(whole[len(prompt.text) :])
        end = self.tokenizer.eos_token_id
        ids = ids[: ids.index(end)] if end in ids else ids
        kept = ids[: limit - (end is not None)]
        return [*kept, *([] if end is None else [end])], len(kept) < len(ids)

    def _inside(self, text: str) -> list[int]:
        """Tokens of a text that begins no other, of which some tokenizers put a space in front."""
        start, behind, alone = self._plain([END_OF_LINE, END_OF_LINE + text, text])
        return behind[len(start) :] if shared_length(start, behind) == len(start) else alone


def shares(lengths: Sequence[int], budget: int) -> list[int]:
    """How much is kept of each of several lengths: of the last as much as there is, of the others evenly."""
    *others, own = lengths
    kept = [0] * len(others)
    rest = budget - min(own, budget)
    order = sorted(range(len(others)), key=lambda index: others[index])
    for place, index in enumerate(order):
        kept[index] = min(others[index], rest // (len(order) - place))
        rest -= kept[index]
    return [*kept, min(own, budget)]
