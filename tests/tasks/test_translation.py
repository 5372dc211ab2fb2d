import pytest

from tasks import TASKS
from tasks.task import Task
from tasks.translation import TRANSLATION, columns, language_pair, parts

LOCAL = Task("local files", TRANSLATION, "sacrebleu")


@pytest.mark.parametrize(
    ("task", "flags", "pair"),
    [
        (LOCAL, {"source_lang": "de", "target_lang": "en"}, ("de", "en")),
        (LOCAL, {"source_lang": "de_DE", "target_lang": "en_XX"}, ("de", "en")),
        (LOCAL, {"dataset_config_name": "ro-en"}, ("ro", "en")),
        (LOCAL, {"dataset_config_name": "iwslt2017-de-en", "target_lang": "fr"}, ("de", "fr")),
        (TASKS["iwslt2017"], {"dataset_name": "iwslt2017"}, ("de", "en")),
        (TASKS["iwslt2017"], {"dataset_name": "iwslt2017", "dataset_config_name": "iwslt2017-en-nl"}, ("en", "nl")),
        (TASKS["iwslt2017-en-zh"], {"dataset_name": "iwslt2017-en-zh"}, ("en", "zh")),
    ],
)
def test_languages_by_flag_else_by_name(data_args, task, flags, pair):
    assert language_pair(task, data_args("translation", **flags)) == pair


def test_unknown_languages_are_asked_for(data_args):
    with pytest.raises(ValueError, match=r"--source_lang and --target_lang"):
        language_pair(LOCAL, data_args("translation", source_lang="de", dataset_name="someone/parallel"))


def test_languages_are_keys_of_translation_or_columns(data_args):
    args = data_args("translation", source_lang="de", target_lang="en")
    assert columns(LOCAL, args, ["id", "translation"]) == {"source": "translation.de", "target": "translation.en"}
    assert columns(LOCAL, args, ["de", "en"]) == {"source": "de", "target": "en"}


def test_prefix_stands_in_front(data_args):
    args = data_args("translation", source_prefix="translate German to English: ")
    found = parts({"source": "Haus", "target": "house"}, args)
    assert (found.prompt + found.source, found.references) == ("translate German to English: Haus", ["house"])
