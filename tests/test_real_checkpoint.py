"""A real language model: what stands in the laws of the tiny ones holds for it too, over prompts of people.

Skipped where the checkpoint is not there; `bash src/scripts/real_model.sh` fetches it. Another one, and other prompts:

    pytest -m real --real DIR --real-prompts prompts.txt
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer

from analysis.exit_values import exit_values
from decoding.policy import Policy
from models import deploying_class
from scripts.quickstart_real import QUESTIONS, as_prompt
from scripts.real_model import MODEL
from support import plain_generate
from tasks import KINDS
from tasks.prompts import PromptWriter
from tasks.readers import read_records
from training.evaluation import padded

pytestmark = pytest.mark.real
NEW_TOKENS = 24
BATCH = 8
# Nearer than that two logits of the library count as equal, in float32.
TIE = 1e-4
POLICIES = {
    "full": lambda depth: Policy(),
    "threshold 1.0": lambda depth: Policy(confidence="softmax", threshold=1.0, first_exit=2 * depth // 3),
    "lossless": lambda depth: Policy(
        confidence="softmax",
        threshold=0.5,
        first_exit=5 * depth // 6,
        last_exit=5 * depth // 6,
        skipped="recompute",
        verification="exact",
        num_speculations=4,
    ),
}


@dataclass(frozen=True)
class Answer:
    """The library's greedy answer to a prompt alone.

    Attributes:
        leads: Of the best logit over the second, at every token.
    """

    prompt: list[int]
    tokens: list[int]
    leads: list[float]


@pytest.fixture(scope="module")
def folder(request) -> Path:
    given = request.config.getoption("--real")
    path = Path(given or MODEL)
    if not (path / "config.json").is_file():
        pytest.skip(f"{path} is not there: bash src/scripts/real_model.sh fetches it.")
    return path


@pytest.fixture(scope="module")
def model(folder):
    config = AutoConfig.from_pretrained(folder)
    return deploying_class(config).from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def answers(request, folder, model) -> list[Answer]:
    """To the first twelve questions, or to every line of --real-prompts."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    file = request.config.getoption("--real-prompts")
    prompts = [as_prompt(tokenizer, each) for each in QUESTIONS[:12]]
    if file is not None:
        prompts = [row.get("prompt", row.get("text")) for row in read_records(Path(file))]
    return [greedy(model, tokenizer(prompt)["input_ids"]) for prompt in prompts]


def greedy(model, prompt: list[int]) -> Answer:
    wanted = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    found = plain_generate(model, **inputs_of(model, [prompt]), max_new_tokens=NEW_TOKENS, **wanted)
    leads = [float(-logits[0].topk(2).values.diff()) for logits in found.logits]
    return Answer(prompt, found.sequences[0, len(prompt) :].tolist(), leads)


def inputs_of(model, prompts: list[list[int]]) -> dict:
    return padded(prompts, model.config.pad_token_id, None, left=True)


def chunks(answers: list[Answer], size: int) -> Iterator[list[Answer]]:
    return (answers[start : start + size] for start in range(0, len(answers), size))


@pytest.mark.parametrize("size", [1, BATCH])
@pytest.mark.parametrize("name", POLICIES)
def test_the_answers_are_the_librarys(name, size, model, answers, capsys):
    policy, ties, wrong = POLICIES[name](model.num_exit_layers), 0, []
    for batch in chunks(answers, size):
        inputs = inputs_of(model, [each.prompt for each in batch])
        sequences = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, policy=policy)
        for answer, row in zip(batch, sequences[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            found = row[: len(answer.tokens)]
            place = next((i for i, pair in enumerate(zip(found, answer.tokens, strict=True)) if len({*pair}) > 1), None)
            if place is not None and answer.leads[place] < TIE:
                ties += 1
            elif place is not None:
                wrong.append((answers.index(answer), place, answer.leads[place]))
    equal = len(answers) - ties - len(wrong)
    with capsys.disabled():
        print(f"\n{name}, batches of {size}: {equal} of {len(answers)} answers equal, {ties} part at a tie")
    assert not wrong


@torch.no_grad()
def test_what_the_lens_reads_are_the_librarys_states(model, answers):
    for answer in answers[:4]:
        ids = torch.tensor([answer.prompt])
        _, trace = model.generate(
            ids, max_new_tokens=1, policy=Policy(), return_trace=True, return_states=True, do_sample=False
        )
        found = torch.from_numpy(trace.states[0, 0])  # [L + 1, D]
        *below, last = model(ids, output_hidden_states=True).hidden_states
        for layer, expected in enumerate(below):
            torch.testing.assert_close(
                found[layer], expected[0, -1], rtol=1e-3, atol=1e-4 * float(expected.abs().max())
            )
        unembed, depth = model.unembed(), model.num_exit_layers
        torch.testing.assert_close(unembed.normalise(found[-1], depth), last[0, -1], rtol=1e-3, atol=1e-3)
        library = model.lm_head(last[0, -1])
        own = unembed.logits(unembed.normalise(found[-1:], depth))[0]
        torch.testing.assert_close(own, library, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_exits_are_said_to_be_worth_is_read_off_the_librarys_states(model, answers):
    texts = [[*answer.prompt, *answer.tokens] for answer in answers[:3]]
    rows = Dataset.from_list([{"input_ids": text, "labels": text} for text in texts])
    found = exit_values(model, rows, 2, 10_000, ["softmax"])
    start = 0
    for text in texts:
        *below, last = model(torch.tensor([text]), output_hidden_states=True).hidden_states
        norm, token = model.unembed().normalise, model.lm_head(last[0, :-1]).argmax(-1)
        for layer, state in enumerate((*map(norm, below[1:], range(1, len(below))), last), 1):
            logits = model.lm_head(state[0, :-1])
            log_p = logits.log_softmax(-1)
            here = slice(start, start + len(text) - 1), layer - 1
            loss = -log_p.gather(1, torch.tensor(text[1:])[:, None])[:, 0]
            np.testing.assert_allclose(found.loss[here], loss, rtol=1e-3, atol=1e-3)
            top2 = logits.topk(2, dim=-1).values
            sure = (top2[:, 0] - top2[:, 1] > TIE * top2[:, 0].abs().clamp_min(1)).numpy()
            assert (found.equal[here] == (logits.argmax(-1) == token).numpy())[sure].all()
            if layer < model.num_exit_layers:
                p2 = log_p.topk(2, dim=-1).values.exp()
                np.testing.assert_allclose(found.confidences["softmax"][here], p2[:, 0] - p2[:, 1], atol=1e-3)
        start += len(text) - 1
    assert start == len(found.loss)


@pytest.mark.parametrize("name", ["question_answering", "summarization", "translation"])
@pytest.mark.parametrize("shots", [0, 2])
def test_prompts_of_tasks_are_the_chat_templates_own_and_keep_the_question(folder, name, shots):
    """Token for token; texts of thousands of words are cut to what the model was made for, and nothing else is."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        pytest.skip(f"{folder} has no chat template.")
    kind, words = KINDS[name], {"source_lang": "German", "target_lang": "English"}
    writer = PromptWriter(tokenizer, kind.template, kind.fields, words, chat=True)
    room = min(2048, AutoConfig.from_pretrained(folder).max_position_embeddings) - NEW_TOKENS
    for times in (1, 400):
        examples = [
            {"id": text, "question": text, "source": f"{text} It rains in Ålesund. " * times, "target": text[::-1]}
            for text in QUESTIONS[: shots + 1]
        ]
        shown, prompt = writer.fitted(examples[:-1], examples[-1], room)
        assert prompt.cut == (times > 1) and len(prompt.ids) <= room and len(shown) == shots + 1
        turns = []
        for example in shown:
            values = {"context": example["source"], "text": example["source"], "source": example["source"]}
            values = {key: value.strip() for key, value in values.items()} | {"question": example["question"]}
            turns.append({"role": "user", "content": kind.template.question(values | words)})
            turns.append({"role": "assistant", "content": example["target"]})
        turns[0]["content"] = f"{kind.template.told(words)}\n\n{turns[0]['content']}"
        own = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True)
        assert prompt.ids == own["input_ids"]
        assert name != "question_answering" or f"Question: {examples[-1]['question']}\nAnswer:" in prompt.text
        assert times == 1 or len(prompt.ids) > room - 16, "and no more is cut than has to be"
