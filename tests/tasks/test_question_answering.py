import pytest

from tasks.question_answering import parts, reference_answers


def test_prompt_is_the_one_t5_was_trained_on():
    values = {"question": " \tWho? ", "context": "\n A tale. ", "answers": ["Ada"]}
    found = parts(values, None)
    assert found.prompt + found.source == "question: Who?  context: A tale. "


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ({"text": ["a", "b"], "answer_start": [0, 1]}, ["a", "b"]),
        ({"text": [], "answer_start": []}, []),
        ({"text": "a"}, ["a"]),
        ([{"text": "a", "tokens": ["a"]}, {"text": "b", "tokens": []}], ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
        (" ", []),
        (None, []),
        (308, ["308"]),
        ([None, "", 3], ["3"]),
        (float("nan"), []),
        ({"text": [float("nan"), "a"]}, ["a"]),
        ({"text": None}, []),
        (1912.0, ["1912"]),
        ({"text": [12.5]}, ["12.5"]),
        ('{"text": ["a", "b"], "answer_start": [0, 1]}', ["a", "b"]),
        ("{'text': ['a', \"b's\"], 'answer_start': [0, 1]}", ["a", "b's"]),
        ("['a', 'b']", ["a", "b"]),
        ("[]", []),
        ("[1]", ["[1]"]),  # an answer that merely looks like a list
        ("[sic] yes", ["[sic] yes"]),
        ("{x | x > 0}", ["{x | x > 0}"]),
        (["[1]", "['a']"], ["[1]", "['a']"]),
    ],
)
def test_references_in_every_spelling(value, answers):
    assert reference_answers(value) == answers


def test_a_literal_that_cannot_be_read_is_not_taken_for_an_answer():
    with pytest.raises(ValueError, match=r"neither JSON nor a Python literal"):
        reference_answers("{'text': array(['a'], dtype=object)}")


@pytest.mark.parametrize(
    ("value", "held"),
    [
        ([{"a"}], "a set"),
        (True, "true"),
        ([False], "false"),
        ({"text": [["a"]]}, "a list"),
        ([["a"]], "a list"),
        (float("inf"), "the number inf"),
        ({"text": [{"span": "a"}]}, "an object without 'text'"),
        ({"value": "a", "aliases": []}, "an object without 'text' where an answer is expected; it has value, aliases"),
        ({}, "an object without 'text'"),
        ("{'text': [True]}", "true"),
    ],
)
def test_what_is_no_answer_is_refused(value, held):
    with pytest.raises(ValueError, match=f"^holds {held}"):
        reference_answers(value)
