"""Examples shown in front of the one that is asked: never it, always as many, and the same by the same seed."""

import pytest
from datasets import Dataset

from tasks.loading import EXAMPLE_COLUMNS
from tasks.shots import Shots


def pool(*texts, question="Which?"):
    rows = [{"id": str(i), "source": text, "question": question, "target": f"t{text}"} for i, text in enumerate(texts)]
    empty = {"prompt": "", "references": None}
    return Dataset.from_list([{**empty, **row} for row in rows], features=EXAMPLE_COLUMNS)


def sources(shots):
    return [shot["source"] for shot in shots]


def test_the_same_for_all_that_are_not_among_them():
    held = pool(*"abcdefgh")
    shots = Shots(held, 3, seed=1)
    first = shots.beside({"id": "x", "question": "", "source": "z"})
    assert len({*sources(first)}) == 3 and first == Shots(held, 3, seed=1).beside(
        {"id": "y", "question": "", "source": "y"}
    )
    assert any(sources(first) != sources(Shots(held, 3, seed=seed).beside(held[0])) for seed in range(2, 6))


@pytest.mark.parametrize("seed", range(4))
def test_never_the_one_that_is_asked_whatever_its_id_case_and_space(seed):
    held = pool(*"abcd", "A", " b ", "a")
    shots = Shots(held, 3, seed)
    for text in "abcd":
        found = shots.beside({"id": "another", "question": " which?\n", "source": f" {text.upper()} "})
        assert len(found) == 3 and text not in {each.strip().lower() for each in sources(found)}
        assert len({each.strip().lower() for each in sources(found)}) == 3, "and none twice"


def test_another_question_of_the_same_text_is_another_example():
    (shot,) = Shots(pool("a"), 1, 0).beside({"id": "0", "question": "When?", "source": "a"})
    assert shot["question"] == "Which?"


def test_those_without_an_answer_are_not_shown_unless_they_may_be():
    held = pool("a", "b", "c").map(lambda row: {"target": "" if row["source"] == "b" else row["target"]})
    assert {*sources(Shots(held, 3, 0, unanswered=True).beside({"id": "", "question": "", "source": "d"}))} == {*"abc"}
    with pytest.raises(ValueError, match="--n_shot 4 needs as many different examples, and the train split has 3:"):
        Shots(held, 4, 0, unanswered=True)
    assert {*sources(Shots(held, 2, 0).beside({"id": "", "question": "", "source": "b"}))} == {"a", "c"}
    with pytest.raises(
        ValueError, match="--n_shot 3 needs as many different examples with an answer, and the train split has 2:"
    ):
        Shots(held, 3, 0)
    with pytest.raises(ValueError, match="has 1 beside example '0': lower it, or give more"):
        Shots(held, 2, 0).beside(held[0])
