"""Templates of prompts: an instruction that is said once, and how an example is shown, its answer last."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

ANSWER = "answer"
# A line of its own in a file of a template: what stands above it is the instruction.
PARTING = "---"


@dataclass(frozen=True)
class Template:
    """Texts with placeholders in braces; `{{` and `}}` are braces themselves.

    Attributes:
        instruction: Said once, in front of everything; may be empty.
        example: How an example is shown, up to its `{answer}`, which comes last.
        verbatim: Values and answers keep the white space around them, as code has to.
        silence: What stands where an example has no answer; where empty, nothing does.
    """

    instruction: str
    example: str
    verbatim: bool = False
    silence: str = ""

    def value(self, text: str) -> str:
        """A text of an example as it is shown."""
        return text if self.verbatim else text.strip()

    def answer(self, text: str) -> str:
        """An answer as it is shown."""
        return self.value(text) or self.silence

    @property
    def gap(self) -> str:
        """What stands between the text in front of an answer and the answer. It is no part of a prompt, since in most
        vocabularies a word has its space in front: ` red` is one token, and ` ` and `red` are two others."""
        shown = self._shown
        return shown[len(shown.rstrip(" \t")) :]

    def question(self, values: Mapping[str, str]) -> str:
        """An example of these values, up to its answer and what parts it from that."""
        return fill(self._shown.rstrip(" \t"), values)

    def told(self, values: Mapping[str, str]) -> str:
        """The instruction."""
        return fill(self.instruction, values)

    @property
    def _shown(self) -> str:
        return self.example.removesuffix("{" + ANSWER + "}")


def fill(text: str, values: Mapping[str, str]) -> str:
    """A text with values in the places of its placeholders; braces of a value are braces."""
    parts = string.Formatter().parse(text)
    return "".join(literal + (values[name] if name is not None else "") for literal, name, *_ in parts)


def read_template(
    path: str | Path, fields: Collection[str], words: Collection[str], verbatim: bool = False
) -> Template:
    """The template of a file: an instruction, a line of three dashes and an example, or the example alone.

    Args:
        fields: Placeholders of what an example holds, each of which has to be in it.
        words: Other placeholders that there may be.
        verbatim: See `Template`.

    Raises:
        ValueError: It cannot be read, lacks a placeholder or has one that there is not; says which there are.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"--template {path} cannot be read: {reason}.") from None
    *before, example = (part.strip("\n") for part in f"\n{text.rstrip()}\n".split(f"\n{PARTING}\n"))
    if len(before) > 1:
        raise ValueError(f"--template {path} has {len(before)} lines of {PARTING}: one parts instruction and example.")
    example = example if example.endswith("{" + ANSWER + "}") else example + " {" + ANSWER + "}"
    found = Template("".join(before).strip(), example, verbatim)
    for part, valid in ((found.instruction, [*words]), (found.example, [*fields, *words, ANSWER])):
        _check(path, part, valid)
    named = _names(found.example)
    missing = [name for name in fields if name not in named]
    if missing:
        needed = " and ".join(f"{{{name}}}" for name in missing)
        raise ValueError(f"--template {path} lacks {needed}, without which an example does not say what is asked.")
    if named.count(ANSWER) > 1:
        raise ValueError(f"--template {path}: {{{ANSWER}}} has to come once, at the end of the example.")
    return found


def _check(path: str | Path, text: str, valid: Collection[str]) -> None:
    listed = ", ".join(f"{{{name}}}" for name in valid) or "none"
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"--template {path}: {error}; a brace itself is written {{{{ or }}}}.") from None
    for _, name, spec, conversion in parts:
        if name is not None and (name not in valid or spec or conversion):
            raise ValueError(f"--template {path} has {{{name}}}, which is no placeholder there: valid are {listed}.")


def _names(text: str) -> list[str]:
    return [name for _, name, *_ in string.Formatter().parse(text) if name is not None]
