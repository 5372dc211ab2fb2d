"""Questions with right and wrong answers: what is read, what is refused, and what is invented."""

import csv

import pytest

from tasks.truthful import COLUMNS, invented_questions, read_questions

ROW = dict(
    zip(COLUMNS, ("Where do we come from? ", "Origins", "Africa", "From Africa; Africa;", "Mars; Venus; "), strict=True)
)


def write_csv(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_question_is_read(tmp_path):
    (found,) = read_questions(write_csv(tmp_path / "questions.csv", ROW))
    assert found.question == "Where do we come from?" and found.category == "Origins" and found.best == "Africa"
    assert found.correct == ("From Africa", "Africa") and found.incorrect == ("Mars", "Venus")


def test_the_best_answer_is_a_right_one(tmp_path):
    (found,) = read_questions(write_csv(tmp_path / "questions.csv", ROW | {"Best Answer": "The savanna"}))
    assert found.correct == ("The savanna", "From Africa", "Africa")


@pytest.mark.parametrize("column", ["Question", "Correct Answers", "Incorrect Answers"])
def test_what_is_missing_is_named(tmp_path, column):
    empty = ROW | {column: " ; " if "Answers" in column else " "}
    empty["Best Answer"] = "" if column == "Correct Answers" else empty["Best Answer"]
    with pytest.raises(ValueError, match=rf"record 2: .*'{column}' is empty"):
        read_questions(write_csv(tmp_path / "questions.csv", ROW, empty))
    lacking = {name: value for name, value in ROW.items() if name != column}
    with pytest.raises(ValueError, match=f"has no column '{column}'"):
        read_questions(write_csv(tmp_path / "other.csv", lacking))


def test_no_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        read_questions(tmp_path / "none.csv")


def test_invented_questions_say_what_is_right():
    questions = invented_questions(30)
    assert questions == invented_questions(30) != invented_questions(30, seed=1)
    assert len({each.question for each in questions}) == 30
    for each in questions:
        assert each.best in each.correct and not set(each.correct) & set(each.incorrect)
        told, _ = each.question.rsplit(". ", 1)
        ends = [answer.rsplit(" ", 1)[-1] for answer in each.correct]
        assert all(end in told for end in ends)
