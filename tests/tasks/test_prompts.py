"""Prompts against strings written by hand; what is cut of long ones; labels behind them."""

import pytest
from transformers import PreTrainedTokenizerFast

from tasks import KINDS, find_task
from tasks.forms import Reading
from tasks.prompts import PromptWriter, shares

QUESTION = {"id": "q", "question": "What colour is it?", "source": " The tower is red. ", "target": "red"}
SHOT = {"id": "s", "question": "Who is Bob?", "source": "Bob is a friend.", "target": " a friend "}
PLAIN = {
    "question_answering": (
        "Answer the question with a few words of the passage.\n\n"
        "Passage: Bob is a friend.\nQuestion: Who is Bob?\nAnswer: a friend\n\n"
        "Passage: The tower is red.\nQuestion: What colour is it?\nAnswer:"
    ),
    "summarization": (
        "Summarize the text in one or two sentences.\n\n"
        "Text: Bob is a friend.\nSummary: a friend\n\n"
        "Text: The tower is red.\nSummary:"
    ),
    "translation": (
        "Translate from German to English.\n\n"
        "German: Bob is a friend.\nEnglish: a friend\n\n"
        "German: The tower is red.\nEnglish:"
    ),
}
ASKED = "Passage: The tower is red.\nQuestion: What colour is it?\nAnswer:"
SHOWN = (
    "Answer the question with a few words of the passage.\n\nPassage: Bob is a friend.\nQuestion: Who is Bob?\nAnswer:"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }}</s>{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATS = {
    CHATML: (
        f"<|im_start|>user\n{SHOWN}<|im_end|>\n<|im_start|>assistant\na friend<|im_end|>\n"
        f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n"
    ),
    INST: f"[INST] {SHOWN} [/INST] a friend</s>[INST] {ASKED} [/INST]",
    GEMMA: (
        f"</s><start_of_turn>user\n{SHOWN}<end_of_turn>\n<start_of_turn>model\na friend<end_of_turn>\n"
        f"<start_of_turn>user\n{ASKED}<end_of_turn>\n<start_of_turn>model\n"
    ),
}


@pytest.fixture(scope="session")
def plain(tiny_gpt2_dir) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(tiny_gpt2_dir)


def writer(tokenizer, data_args, name="question_answering", template=None):
    tokenizer.chat_template = template
    kind = KINDS[name]
    more = {"source_lang": "de", "target_lang": "en"} if name == "translation" else {}
    args = data_args(name, **more)
    words = kind.words(find_task(name, args), args)
    return PromptWriter(tokenizer, kind.template, kind.fields, words, chat=template is not None)


def of(source, name="q", **more):
    return {"id": name, "question": "What colour is it?", "source": source, "target": "red"} | more


@pytest.mark.parametrize("name", PLAIN)
def test_the_templates_of_the_tasks(plain, data_args, name):
    found = writer(plain, data_args, name)
    assert found.text([SHOT], QUESTION) == PLAIN[name]
    instruction, _, asked = PLAIN[name].split("\n\n")
    assert found.text([], QUESTION) == f"{instruction}\n\n{asked}"
    _, prompt = found.fitted([SHOT], QUESTION, None)
    assert (prompt.text, prompt.cut) == (PLAIN[name], False)
    assert prompt.ids == plain(PLAIN[name])["input_ids"]


def test_a_question_may_have_no_answer(plain):
    kind = KINDS["question_answering"]
    found = PromptWriter(plain, kind.unanswerable, kind.fields, {})
    text = found.text([SHOT | {"target": ""}], QUESTION)
    assert text == (
        "Answer the question with a few words of the passage. Where it does not tell, answer: unanswerable\n\n"
        "Passage: Bob is a friend.\nQuestion: Who is Bob?\nAnswer: unanswerable\n\n"
        "Passage: The tower is red.\nQuestion: What colour is it?\nAnswer:"
    )
    assert found.answered([], QUESTION | {"target": " "}, ASKED) == f"{ASKED} unanswerable"
    reading = Reading(("\n",), silence=kind.unanswerable.silence)
    silent = (" Unanswerable.\nPassage", "“unanswerable”", "**unanswerable**", "unanswerable!", "")
    assert {reading.answer(text) for text in silent} == {""}
    assert reading.answer("unanswerable by Bob ") == "unanswerable by Bob"
    assert Reading().answer("unanswerable") == "unanswerable"


def test_a_language_without_a_name_is_called_as_it_was_given(data_args):
    args = data_args("translation", source_lang="tlh", target_lang="pt_BR")
    kind = KINDS["translation"]
    assert kind.words(find_task("translation", args), args) == {"source_lang": "tlh", "target_lang": "Portuguese"}


@pytest.mark.parametrize("template", CHATS, ids=["chatml", "inst", "gemma"])
def test_chat_templates(plain, data_args, template):
    found = writer(plain, data_args, template=template)
    assert found.text([SHOT], QUESTION) == CHATS[template]
    turns = [
        {"role": "user", "content": SHOWN},
        {"role": "assistant", "content": "a friend"},
        {"role": "user", "content": ASKED},
    ]
    own = plain.apply_chat_template(turns, add_generation_prompt=True)
    assert found.fitted([SHOT], QUESTION, None)[1].ids == own["input_ids"], "the tokenizer's own tokens"


def test_what_cannot_be_chatted_with_is_a_sentence(plain, data_args):
    with pytest.raises(ValueError, match=r"--apply_chat_template: the tokenizer of \S+ has no chat template; leave"):
        plain.chat_template = None
        PromptWriter(plain, KINDS["summarization"].template, {"text": "source"}, {}, chat=True)
    refusing = writer(plain, data_args, template="{{ raise_exception('Not today') }}")
    with pytest.raises(ValueError, match=r"The chat template of \S+ cannot be used: Not today; leave out --apply"):
        refusing.text([], QUESTION)


# ------------------------------------------------------------------------------------------------------------- fitting
@pytest.mark.parametrize("template", [None, *CHATS], ids=["plain", "chatml", "inst", "gemma"])
@pytest.mark.parametrize("more", [0, 7, 40, 90, 170, 1000])
def test_long_texts_lose_their_beginnings_and_nothing_else(plain, data_args, template, more):
    """Whatever is cut, the prompt is that of examples whose texts are ends of the texts they had."""
    found = writer(plain, data_args, template=template)
    filler = "It rains there often, and the river is wide. " * 6
    shots = [{**SHOT, "source": f"First. {filler} Bob is a friend."}, {**SHOT, "target": "he", "question": "Who?"}]
    example = of(f"Begin. {filler} The tower is red.")
    room = len(found.fitted([], of(""), None)[1].ids) + more
    shown, prompt = found.fitted(shots, example, room)
    whole = found.fitted(shots, example, None)[1]
    assert prompt.cut == (len(whole.ids) > room) and len(prompt.ids) <= room
    assert prompt.cut or prompt == whole
    assert prompt.text == found.text(shown[:-1], shown[-1])
    assert prompt.text.count("Answer the question with a few words of the passage.") == 1
    assert "Question: What colour is it?\nAnswer:" in prompt.text
    for before, after in zip([*shots, example][-len(shown) :], shown, strict=True):
        assert before["source"].strip().endswith(after["source"].strip())
        assert (before["question"], before["target"]) == (after["question"], after["target"])


def test_shots_are_cut_before_the_text_that_is_asked_about(plain, data_args):
    found = writer(plain, data_args)
    filler = "It rains there often. " * 8
    shots, example = [{**SHOT, "source": filler}] * 2, of("The tower is red.")
    frame = len(found.fitted([{**SHOT, "source": ""}] * 2, example, None)[1].ids)
    shown, prompt = found.fitted(shots, example, frame + 21)
    assert shown[-1] == example and len(shown) == 3 and len(prompt.ids) <= frame + 21
    lengths = [len(plain(shot["source"])["input_ids"]) for shot in shown[:2]]
    assert min(lengths) >= 8 and max(lengths) - min(lengths) <= 2, "evenly"


def test_where_shots_leave_too_little_the_first_is_left_out(plain, data_args):
    found = writer(plain, data_args)
    shots = [{**SHOT, "target": f"{name}, a friend of Ann " * 3} for name in ("one", "two")]
    example = of("It rains there often. " * 12 + "The tower is red.")
    alone = len(found.fitted(shots[1:], {**example, "source": ""}, None)[1].ids)
    shown, prompt = found.fitted(shots, example, alone + alone // 3 + 3)
    assert [each["target"][:3] for each in shown[:-1]] == ["two"] and len(prompt.ids) > alone
    assert prompt.text.endswith("The tower is red.\nQuestion: What colour is it?\nAnswer:")


def test_what_has_no_room_for_its_question_is_a_sentence(plain, data_args):
    with pytest.raises(
        ValueError, match=r"The prompt of example 'q' has \d+ tokens without its text, and there is room"
    ):
        writer(plain, data_args).fitted([SHOT], QUESTION, 12)


def test_shares():
    assert shares([9, 2, 5], 100) == [9, 2, 5]
    assert shares([9, 2, 5], 11) == [4, 2, 5]
    assert shares([9, 2, 5], 7) == [1, 1, 5]
    assert shares([9, 2, 5], 4) == [0, 0, 4]
    assert shares([5], 3) == [3]


# ------------------------------------------------------------------------------------------------------------ learning
def test_labels_are_what_follows_the_prompt_and_the_end(plain, data_args):
    found = writer(plain, data_args)
    shown, prompt = found.fitted([SHOT], QUESTION, None)
    ids, cut = found.labels(shown, prompt, 30)
    assert not cut and ids[-1] == plain.eos_token_id and plain.decode(ids[:-1]) == " red"
    assert prompt.ids + ids[:-1] == plain(f"{prompt.text} red")["input_ids"]
    long = {**QUESTION, "target": "It rains there often, and the river is wide."}
    ids, cut = found.labels([long], found.fitted([], long, None)[1], 5)
    assert cut and len(ids) == 5 and ids[-1] == plain.eos_token_id


def test_labels_of_a_chat_end_as_its_turns_do(plain, data_args):
    found = writer(plain, data_args, template=INST)  # whose turns end with the end of a sequence
    shown, prompt = found.fitted([SHOT], QUESTION, None)
    ids, cut = found.labels(shown, prompt, 30)
    assert plain.decode(ids) == " red</s>" and ids.count(plain.eos_token_id) == 1 and not cut
    found = writer(plain, data_args, template=CHATML)
    shown, prompt = found.fitted([SHOT], QUESTION, None)
    ids, _ = found.labels(shown, prompt, 30)
    assert plain.decode(ids) == "red<|im_end|>\n</s>"
