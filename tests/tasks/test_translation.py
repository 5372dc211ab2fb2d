import pytest

from conftest import write_jsonl
from tasks import TASKS, find_task, load_examples
from tasks.task import Task
from tasks.translation import TRANSLATION, columns, language_pair, parts

PAIR = {"translation": {"de": "a", "en": "b"}}
LOCAL = Task("local files", TRANSLATION, "sacrebleu")


@pytest.mark.parametrize(
    ("task", "flags", "pair"),
    [
        (LOCAL, {"source_lang": "de", "target_lang": "en"}, ("de", "en")),
        (LOCAL, {"source_lang": "de_DE", "target_lang": "en_XX"}, ("de_DE", "en_XX")),
        (LOCAL, {"dataset_config_name": "ro-en"}, ("ro", "en")),
        (LOCAL, {"dataset_config_name": "my_de-en"}, ("de", "en")),
        (LOCAL, {"dataset_config_name": "deu_Latn-pt_BR"}, ("deu_Latn", "pt_BR")),
        (LOCAL, {"dataset_config_name": "iwslt2017-de-en", "target_lang": "fr"}, ("de", "fr")),
        (TASKS["iwslt2017"], {"dataset_name": "iwslt2017"}, ("de", "en")),
        (TASKS["iwslt2017"], {"dataset_name": "iwslt2017", "dataset_config_name": "iwslt2017-en-nl"}, ("en", "nl")),
        (TASKS["iwslt2017-en-zh"], {"dataset_name": "iwslt2017-en-zh"}, ("en", "zh")),
        (TASKS["multi30k"], {"dataset_name": "multi30k"}, ("de", "en")),
        (TASKS["multi30k"], {"dataset_name": "multi30k", "source_lang": "en", "target_lang": "de"}, ("en", "de")),
    ],
)
def test_languages_by_flag_else_by_name(data_args, task, flags, pair):
    assert language_pair(task, data_args("translation", **flags)) == pair


def test_unknown_languages_are_asked_for(data_args):
    with pytest.raises(ValueError, match=r"needs --source_lang and --target_lang, .* not given: --target_lang$"):
        find_task("translation", data_args("translation", source_lang="de", dataset_name="someone/parallel"))
    with pytest.raises(ValueError, match=r"not given: --source_lang and --target_lang$"):
        find_task("translation", data_args("translation"))


@pytest.mark.parametrize(
    "flags",
    [
        {"source_lang": "de", "target_lang": "de"},
        {"dataset_config_name": "de-en", "target_lang": "de"},
        {"dataset_name": "iwslt2017", "source_lang": "en"},
    ],
)
def test_a_language_is_not_translated_to_itself(data_args, flags):
    with pytest.raises(ValueError, match=r"--source_lang and --target_lang .*two"):
        find_task("translation", data_args("translation", **flags))


NESTED, FLAT = "translation.{}", "{}"


@pytest.mark.parametrize("form", [NESTED, FLAT], ids=["nested", "flat"])
@pytest.mark.parametrize(
    ("there", "flags", "found"),
    [
        (("de", "en"), ("de", "en"), ("de", "en")),
        (("de", "en"), ("de_DE", "en_XX"), ("de", "en")),
        (("pt_BR", "en"), ("pt_BR", "en_XX"), ("pt_BR", "en")),
        (("pt", "pt_BR"), ("pt_BR", "pt"), ("pt_BR", "pt")),
        (("pt", "pt_BR"), ("pt_PT", "pt_BR"), ("pt", "pt_BR")),
        (("deu_Latn", "eng_Latn"), ("deu_Latn", "eng_Latn"), ("deu_Latn", "eng_Latn")),
        (("zh-CN", "en"), ("zh-CN", "en-US"), ("zh-CN", "en")),
        (("src", "tgt"), ("src", "tgt"), ("src", "tgt")),
        (("source", "translation"), ("source", "translation"), ("source", "translation")),
    ],
)
def test_languages_are_keys_of_translation_or_columns_by_their_own_name_first(data_args, form, there, flags, found):
    args = data_args("translation", source_lang=flags[0], target_lang=flags[1])
    sample = {"translation": [dict.fromkeys(there, "a")]} if form == NESTED else {name: ["a"] for name in there}
    assert columns(LOCAL, args, sample) == {
        "source": form.format(found[0]),
        "target": form.format(found[1]),
    }


@pytest.mark.parametrize(
    ("records", "flags", "sentence"),
    [
        (
            [{"translation": {"pt": "a", "en": "b"}}],
            ("fr_CA", "en"),
            "'fr_CA' for the source; it has translation.pt, tra",
        ),
        ([{"src": "a", "tgt": "b"}], ("de", "en"), "'de' for the source and no column 'en' for the target; it has src"),
        ([PAIR], ("de_DE", "de_AT"), "source and target are both 'translation.de'"),
        ([{"translation": {"de": 7, "en": "b"}}], ("de", "en"), "record 1 of .* 'translation.de' holds the number 7"),
        ([{"translation": {"de": True, "en": "b"}}], ("de", "en"), "record 1 of .* holds true where text"),
        ([{"de": None, "en": "b"}], ("de", "en"), "record 1 of .* column 'de' holds null where text"),
        ([{"de": "a", "en": "b"}, {"de": "a"}], ("de", "en"), "record 2 of .* has no 'en'; it has de"),
        ([PAIR, {"translation": {"de": "a"}}], ("de", "en"), "record 2 of .* has no 'en'; it has translation"),
        ([PAIR, {"translation": None}], ("de", "en"), "record 2 of .* has no 'translation.de'"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(data_args, write, records, flags, sentence):
    args = data_args(
        "translation", source_lang=flags[0], target_lang=flags[1], validation_file=write("pairs.jsonl", records)
    )
    with pytest.raises(ValueError, match=sentence):
        load_examples(find_task("translation", args), args, "validation")


def test_a_record_without_translation_is_left_out_with_a_count(data_args, write, caplog):
    rows = [{"translation": {"de": "Haus", "en": None}}, {"translation": {"de": "Tor", "en": "gate"}}]
    path = write("pairs.jsonl", rows)
    args = data_args("translation", source_lang="de", target_lang="en", validation_file=path, test_file=path)
    task = find_task("translation", args)
    assert load_examples(task, args, "validation")["source"][:] == ["Tor"]
    assert "1 of 2 records" in caplog.text
    assert load_examples(task, args, "test", labelled=False)["references"][:] == [[], ["gate"]]


def test_a_target_need_not_be_there_to_be_predicted(data_args, write):
    path = write("pairs.jsonl", [{"translation": {"de": "Haus"}}])
    args = data_args("translation", source_lang="de", target_lang="en", test_file=path)
    (example,) = load_examples(find_task("translation", args), args, "test", labelled=False)
    assert (example["source"], example["references"]) == ("Haus", None)


def test_prefix_stands_in_front(data_args):
    args = data_args("translation", source_prefix="translate German to English: ")
    found = parts({"source": "Haus", "target": "house"}, args)
    assert (found.prompt + found.source, found.references) == ("translate German to English: Haus", ["house"])


# --- the tokenizer of BLEU --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "tokenizer"),
    [
        ({"target_lang": "en"}, None),
        ({"target_lang": "ru_RU"}, None),
        ({"target_lang": "zh"}, "zh"),
        ({"target_lang": "zh_CN"}, "zh"),
        ({"target_lang": "zho_Hans"}, "zh"),
        ({"target_lang": "th"}, "char"),
        ({"target_lang": "tgt", "bleu_tokenizer": "zh"}, "zh"),
        ({"target_lang": "zh", "bleu_tokenizer": "char"}, "char"),
        ({"target_lang": "zh", "bleu_tokenizer": "13a"}, None),
        ({"dataset_name": "iwslt2017-en-zh"}, "zh"),
        ({"dataset_name": "iwslt2017", "dataset_config_name": "iwslt2017-en-zh"}, "zh"),
    ],
)
def test_bleu_counts_what_the_flag_or_the_language_says(data_args, flags, tokenizer):
    languages = {} if "dataset_name" in flags else {"source_lang": "de"}
    assert find_task("translation", data_args("translation", **languages, **flags)).tokenizer == tokenizer


class NoMecab:
    """Stands in for sacreBLEU where MeCab is not installed."""

    def __init__(self, tokenize):
        if "mecab" in tokenize:
            raise RuntimeError("\nTokenization requires extra dependencies.\n\n    pip install it\n")


@pytest.mark.parametrize("language", ["ja", "jpn_Jpan", "ko_KR"])
def test_without_mecab_characters_are_counted_and_it_is_said(data_args, monkeypatch, caplog, language):
    monkeypatch.setattr("tasks.metrics.BLEU", NoMecab)
    args = data_args("translation", source_lang="en", target_lang=language)
    assert find_task("translation", args).tokenizer == "char"
    assert f"BLEU counts characters, since sacreBLEU's tokenizer for {language} is not there" in caplog.text
    asked = data_args("translation", source_lang="en", target_lang=language, bleu_tokenizer="ja-mecab")
    with pytest.raises(ValueError, match=r"--bleu_tokenizer ja-mecab cannot be used: .*dependencies. pip install"):
        find_task("translation", asked)


def test_with_mecab_words_are_counted(data_args, monkeypatch):
    monkeypatch.setattr("tasks.metrics.BLEU", lambda tokenize: None)
    args = data_args("translation", source_lang="en", target_lang="ko")
    assert find_task("translation", args).tokenizer == "ko-mecab"


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_multi30k_is_read_from_files_that_flags_name(data_args, tmp_path, nested, split):
    pair = {"de": "Ein Mann.", "en": "A man."}
    row = {"id": "test_2016_flickr-0", **({"translation": pair} if nested else pair)}
    file = write_jsonl(tmp_path / "pairs.jsonl", [row])
    args = data_args("translation", dataset_name="multi30k", **{f"{split}_file": str(file)})
    task = find_task("translation", args)
    (example,) = load_examples(task, args, split)
    assert (task.name, task.metric) == ("multi30k", "sacrebleu")
    assert (example["source"], example["references"]) == ("Ein Mann.", ["A man."])
    assert example["id"] == "test_2016_flickr-0"
