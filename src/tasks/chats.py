"""Turns of a conversation, as a tokenizer's chat template has them."""

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

# Its role and its content.
Turn = dict[str, str]


def refuse_without_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse, with a ValueError, --apply_chat_template where there is none."""
    if tokenizer.chat_template is None:
        raise ValueError(
            f"--apply_chat_template: the tokenizer of {tokenizer.name_or_path} has no chat template; leave it out."
        )


def rendered(tokenizer: PreTrainedTokenizerBase, turns: Sequence[Turn], asks: bool = True, advice: str = "") -> str:
    """The text of turns, which has the special tokens of a text in it.

    Args:
        asks: Whether what begins an answer stands behind them.
        advice: What to do where the template does not take them.

    Raises:
        ValueError: It does not.
    """
    try:
        return tokenizer.apply_chat_template(
            turns,
            add_generation_prompt=asks,
            tokenize=False,
            enable_thinking=False,  # Qwen 3 thinks first otherwise, longer than an answer may be
        )
    except TemplateError as error:
        told = f"The chat template of {tokenizer.name_or_path} cannot be used: {error}"
        raise ValueError(f"{told}; {advice}." if advice else f"{told}.") from None
