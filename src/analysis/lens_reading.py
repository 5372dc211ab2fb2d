"""What every layer says of tokens behind a prompt: the logit lens, without the final norm and with it, and the tuned
lens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from decoding.lens import rank_of
from decoding.policy import Policy
from jobs.loading import as_prompt, prompt_ids
from jobs.reading import answer_row, parted_ids
from models.unembed import Unembed
from training.positions import HELD, labelled_positions


# ------------------------------------------------------------------------------------------------------ ways of reading
def raw(unembed: Unembed, states: Tensor) -> Tensor:
    """The states as layers left them; the last layer normed, as the model reads it."""
    return torch.cat([states[:, :-1], unembed.norm(states[:, -1])[:, None]], 1)


def normed(unembed: Unembed, states: Tensor) -> Tensor:
    """Every state final-normed."""
    return unembed.norm(states.flatten(0, 1)).view(states.shape)


def translated(unembed: Unembed, states: Tensor) -> Tensor:
    """Every state as an exit reads it: translated where its layer has a translator, final-normed."""
    return unembed.normalise_each(states, range(states.shape[1]))


class Way(NamedTuple):
    """A way of reading a layer: what the head multiplies, made of states h^0 to h^L [n, L + 1, D]; and in words."""

    read: Callable[[Unembed, Tensor], Tensor]
    words: str


# The last layer is the model's own in each.
WAYS = {
    "raw": Way(raw, "no norm"),
    "normed": Way(normed, "final norm (logit lens)"),
    "translated": Way(translated, "translator, then norm (tuned lens)"),
}


def ways_of(model, final_norm: bool = True, compare: bool = False) -> list[str]:
    """Keys of WAYS: all that differ in this model, or the one that is asked for; with the norm, as an exit reads."""
    as_exits = "translated" if model.unembed().translated else "normed"
    if compare:
        return ["raw", "normed"] + ["translated"] * (as_exits == "translated")
    return [as_exits if final_norm else "raw"]


# -------------------------------------------------------------------------------------------------------------- answers
@dataclass(frozen=True)
class Answer:
    """Tokens behind a prompt, at which layers are looked at.

    Attributes:
        prompt: As it was given.
        kind: "continuation", "gold answer" or "generated answer".
        prompt_ids, ids: The tokens of both; of the answer those that are looked at.
        left_out: What of the answer is not looked at, in words; "" where all of it is.
    """

    prompt: str
    kind: str
    prompt_ids: list[int]
    ids: list[int]
    left_out: str = ""


def continuation(model, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int) -> Answer:
    """The full model's next tokens behind a prompt as it is; fewer where it ends."""
    ids = prompt_ids(tokenizer, prompt)
    return Answer(prompt, "continuation", ids, _said(model, ids, tokens))


def answers_to(model, tokenizer: PreTrainedTokenizerBase, question: str, gold: str, tokens: int) -> list[Answer]:
    """The gold answer to a question, asked as the model was taught to read one, and the model's own greedy one.

    Raises:
        ValueError: The gold answer has no token.
    """
    text = as_prompt(tokenizer, question)
    asked, wanted = _gold_ids(model, tokenizer, text, gold) if gold.strip() else ([], [])
    if not wanted:
        raise ValueError(f"--gold {gold!r} has no token: give the right answer to the question.")
    cut = f"the first {tokens} of {len(wanted)} tokens of the gold answer" if len(wanted) > tokens else ""
    ids = prompt_ids(tokenizer, text)
    own = _said(model, ids, tokens)
    goes_on = len(own) == tokens and own[-1] not in _ends(model)
    left_out = f"the first {tokens} tokens of the generated answer, which goes on" if goes_on else ""
    return [
        Answer(question, "gold answer", asked, wanted[:tokens], cut),
        Answer(question, "generated answer", ids, own, left_out),
    ]


def _gold_ids(model, tokenizer: PreTrainedTokenizerBase, prompt: str, gold: str) -> tuple[list[int], list[int]]:
    """Of the prompt and of the answer, behind a space where no chat template parts the two."""
    if model.config.is_encoder_decoder:
        return prompt_ids(tokenizer, prompt), tokenizer(text_target=gold)["input_ids"]
    spaced = tokenizer.chat_template is None and prompt and not prompt[-1].isspace()
    return parted_ids(tokenizer, prompt, f" {gold.lstrip()}" if spaced else gold)


@torch.no_grad()
def _said(model, ids: list[int], tokens: int) -> list[int]:
    inputs = torch.tensor([ids], device=model.device)
    found, trace = model.generate(
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=tokens,
        num_beams=1,
        do_sample=False,
        policy=Policy(),
        return_trace=True,
    )
    return found[0, found.shape[1] - int(trace.lengths[0]) :].tolist()


def _ends(model) -> set[int]:
    ends = model.generation_config.eos_token_id
    return {ends} if isinstance(ends, int) else set(ends or ())


# ------------------------------------------------------------------------------------------------------------- readings
@dataclass(frozen=True)
class Reading:
    """One position of an answer, layer by layer from 0, the embedding, to L.

    Attributes:
        text: The token that stands there.
        tokens, probabilities: Of every layer its k likeliest tokens' texts, and what it gives them, [L + 1][k].
        final: Texts of the last layer's k likeliest tokens.
        final_probabilities: What every layer gives these, [L + 1][k].
        divergence: KL(p_L || p_l) in nats, [L + 1]; 0 at the last layer.
        rank: Of the token that stands there, 1 for the likeliest, [L + 1]; ties go to the lower id.
    """

    text: str
    tokens: list[list[str]]
    probabilities: list[list[float]]
    final: list[str]
    final_probabilities: list[list[float]]
    divergence: list[float]
    rank: list[int]


@dataclass(frozen=True)
class Passage:
    """An answer, and key of WAYS -> a reading of each of its tokens."""

    answer: Answer
    readings: dict[str, list[Reading]]

    def data(self) -> dict:
        """As JSON has it."""
        return asdict(self)


@torch.no_grad()
def read(
    model, tokenizer: PreTrainedTokenizerBase, answers: Sequence[Answer], top_k: int, ways: Sequence[str]
) -> list[Passage]:
    """Every answer under teacher forcing, read in every way."""
    found: list[dict[str, list[Reading]]] = [{way: [] for way in ways} for _ in answers]
    unembed, paired = model.unembed(), model.config.is_encoder_decoder
    rows = Dataset.from_list([answer_row(each.prompt_ids, each.ids, paired) for each in answers])
    # All layers' logits are held at once.
    for some in labelled_positions(model, rows, 1, held=HELD // (model.num_exit_layers + 1)):
        states = torch.stack([some.states.embedded, *some.states.hidden, some.states.last], 1)  # [n, L + 1, D]
        for way in ways:
            logits = unembed.logits(WAYS[way].read(unembed, states)).float()  # [n, L + 1, V]
            for row, each, token in zip(some.rows.tolist(), logits, some.labels, strict=True):
                found[row][way].append(_reading(tokenizer, each, token, top_k))
    return [Passage(answer, readings) for answer, readings in zip(answers, found, strict=True)]


def _reading(tokenizer: PreTrainedTokenizerBase, logits: Tensor, token: Tensor, top_k: int) -> Reading:
    """Of logits [L + 1, V] at a position."""
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    top = p.topk(top_k, dim=-1)
    final = top.indices[-1]
    divergence = torch.nn.functional.kl_div(log_p, log_p[-1:].expand_as(log_p), reduction="none", log_target=True)

    def texts(ids: Tensor) -> list[str]:
        return [tokenizer.decode([each]) for each in ids.tolist()]

    return Reading(
        text=tokenizer.decode([int(token)]),
        tokens=[texts(row) for row in top.indices],
        probabilities=top.values.tolist(),
        final=texts(final),
        final_probabilities=p[:, final].tolist(),
        divergence=divergence.sum(-1).tolist(),
        rank=rank_of(logits, token.expand(len(logits))).tolist(),
    )
