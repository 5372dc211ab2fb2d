import pytest

from tasks import TASKS
from tasks.summarization import SUMMARIZATION, parts
from tasks.task import Task

LOCAL = Task("local files", SUMMARIZATION, "rouge")


@pytest.mark.parametrize(("prefix", "prompt"), [("summarize: ", "summarize: "), (None, "")])
def test_prefix_stands_in_front(data_args, prefix, prompt):
    found = parts({"text": "a\nb", "summary": "c"}, data_args("summarization", source_prefix=prefix))
    assert (found.prompt, found.source, found.references) == (prompt, "a\nb", ["c"])


@pytest.mark.parametrize(
    ("names", "flags", "columns"),
    [
        (["dialogue", "summary"], {}, ["dialogue", "summary"]),
        (["id", "dialogue", "summary"], {}, ["dialogue", "summary"]),
        (["", "article", "id", "highlights"], {}, ["article", "highlights"]),
        (["a", "b", "c"], {"text_column": "c"}, ["c", "b"]),
        (["a", "b", "c"], {"text_column": "c", "summary_column": "a"}, ["c", "a"]),
        (["a"], {}, ["a", "summary"]),
    ],
)
def test_columns_by_flag_else_the_first_two_that_are_no_id(data_args, names, flags, columns):
    found = SUMMARIZATION.columns(LOCAL, data_args("summarization", **flags), names)
    assert found == dict(zip(["text", "summary"], columns, strict=True))


def test_columns_of_a_data_set_go_before_the_first_two(data_args):
    found = SUMMARIZATION.columns(TASKS["xsum"], data_args("summarization"), ["id", "summary", "document"])
    assert found == {"text": "document", "summary": "summary"}
