"""Statements that are true or false: what is read, what is refused, and what is invented."""

import pytest

from tasks.statements import Statement, invented_statements, read_statements


def write(path, *lines):
    path.write_text("\n".join(["statement,label", *lines]) + "\n", encoding="utf-8")
    return path


def test_a_file_is_a_topic_and_a_text_counts_once(tmp_path):
    one = write(tmp_path / "animals_true_false.csv", '"Cats, say, purr.",1', "Cats bark.,0", "Cats bark.,0")
    other = write(tmp_path / "towns.csv", "Dover is a town.,1")
    assert read_statements([one, other]) == [
        Statement("Cats, say, purr.", True, "animals"),
        Statement("Cats bark.", False, "animals"),
        Statement("Dover is a town.", True, "towns"),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [("Cats bark.,perhaps", "record 1: its label is 'perhaps'; valid are 1"), (" ,1", "its statement is empty")],
)
def test_what_cannot_be_read_is_said(tmp_path, line, said):
    with pytest.raises(ValueError, match=said):
        read_statements([write(tmp_path / "animals.csv", line)])


def test_columns_and_topics_have_to_be_there(tmp_path):
    (tmp_path / "other.csv").write_text("text,label\nCats bark.,0\n")
    with pytest.raises(ValueError, match="has no statement: valid are records with statement and label"):
        read_statements([tmp_path / "other.csv"])
    with pytest.raises(ValueError, match="Two files are of the topic 'other'"):
        read_statements([tmp_path / "other.csv", tmp_path / "more" / "other.csv"])


def test_half_of_the_invented_ones_of_a_topic_are_true_and_say_so():
    found = invented_statements(120)
    assert found == invented_statements(120) != invented_statements(120, seed=1)
    for topic in {each.topic for each in found}:
        labels = [each.label for each in found if each.topic == topic]
        assert abs(2 * sum(labels) - len(labels)) <= 2
    for each in found:
        told, claim = each.text.removesuffix(".").rsplit(". ", 1)
        assert (claim.rsplit(" ", 1)[-1] in told) >= each.label, "what is true was told"
