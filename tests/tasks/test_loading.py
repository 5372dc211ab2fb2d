import json
import logging

import datasets
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from tasks import TASKS, find_task, load_examples, train_features
from tasks.loading import unique_ids
from tasks.task import Source

SAMSUM = [{"id": f"d{i}", "dialogue": f"Bea: {i}?", "summary": f"Bea asks {i}."} for i in range(5)]
SQUAD = [
    {
        "id": "q0",
        "context": "It is Ada.",
        "question": " who?",
        "answers": {"text": ["Ada", "A."], "answer_start": [6, 0]},
    },
    {"id": "q1", "context": "It is blue.", "question": "what?", "answers": {"text": ["blue"], "answer_start": [6]}},
]


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(kind, data_args, split="validation", **options):
    return load_examples(find_task(kind, data_args), data_args, split, **options)


def test_a_question_becomes_an_example(write, data_args):
    args = data_args("question_answering", validation_file=write("dev.jsonl", SQUAD))
    assert load("question_answering", args)[0] == {
        "id": "q0",
        "prompt": "question: who? context: ",
        "source": "It is Ada.",
        "question": "who?",
        "target": "Ada",
        "references": ["Ada", "A."],
    }


def test_all_three_kinds_have_the_same_columns(write, data_args):
    pair = [{"translation": {"de": "Haus", "en": "house"}}]
    found = [
        load("question_answering", data_args("question_answering", validation_file=write("q.jsonl", SQUAD))),
        load("summarization", data_args("summarization", validation_file=write("s.jsonl", SAMSUM))),
        load(
            "translation",
            data_args("translation", validation_file=write("t.jsonl", pair), dataset_config_name="x-de-en"),
        ),
    ]
    assert all(examples.features == found[0].features for examples in found)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_each_split_has_its_file_and_its_limit(write, data_args, split):
    flags = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}
    path = write("rows.jsonl", SAMSUM)
    args = data_args("summarization", **{f"{split}_file": path, flags[split]: 3})
    assert load("summarization", args, split)["id"][:] == ["d0", "d1", "d2"]


def test_a_limit_above_the_number_of_records_is_no_error(write, data_args):
    args = data_args("summarization", validation_file=write("rows.jsonl", SAMSUM), max_eval_samples=100)
    assert len(load("summarization", args)) == 5


def test_a_split_without_file_or_name_is_refused(write, data_args):
    args = data_args("summarization", validation_file=write("rows.jsonl", SAMSUM))
    with pytest.raises(ValueError, match=r"no test split: --test_file or --dataset_name is needed"):
        load("summarization", args, "test")


def test_ids_are_row_numbers_where_there_are_none_and_text_where_they_are_numbers(write, data_args):
    rows = [{"document": "a", "summary": "b"}, {"document": "c", "summary": "d"}]
    args = data_args("summarization", validation_file=write("rows.jsonl", rows))
    assert load("summarization", args)["id"][:] == ["0", "1"]
    numbered = [{**row, "id": 7 + i} for i, row in enumerate(rows)]
    args = data_args("summarization", validation_file=write("numbered.jsonl", numbered))
    assert load("summarization", args)["id"][:] == ["7", "8"]


def test_repeated_ids_are_told_apart_and_counted(write, data_args, caplog):
    rows = [{**row, "id": "same"} for row in SAMSUM]
    args = data_args("summarization", validation_file=write("rows.jsonl", rows))
    assert load("summarization", args)["id"][:] == ["same", "same-2", "same-3", "same-4", "same-5"]
    assert "4 records" in caplog.text


@given(st.lists(st.sampled_from(["a", "a-2", "a-2-2", "a-3", "b"]), max_size=12))
def test_unique_ids_are_unique_and_keep_first_occurrences(ids):
    unique = unique_ids(ids)
    assert len(set(unique)) == len(ids)
    assert all(unique[ids.index(name)] == name for name in ids)


def test_empty_pairs_are_dropped_and_counted(write, data_args, caplog):
    rows = [*SAMSUM, {"id": "e1", "dialogue": " \n", "summary": "x"}, {"id": "e2", "dialogue": "x", "summary": None}]
    args = data_args("summarization", validation_file=write("rows.jsonl", rows))
    assert load("summarization", args)["id"][:] == [row["id"] for row in SAMSUM]
    assert "2 of 7 records" in caplog.text


def test_nothing_but_empty_pairs_is_refused(write, data_args):
    args = data_args("summarization", validation_file=write("rows.jsonl", [{"document": "", "summary": "x"}]))
    with pytest.raises(ValueError, match=r"each of the 1 records .* empty text"):
        load("summarization", args)


def test_without_labels_the_answers_may_be_missing(write, data_args):
    rows = [{key: row[key] for key in ("id", "context", "question")} for row in SQUAD]
    args = data_args("question_answering", test_file=write("rows.jsonl", rows))
    examples = load("question_answering", args, "test", labelled=False)
    assert examples["references"][:] == [None, None]
    with pytest.raises(
        ValueError, match=r"no column 'answers' for the answers; it has id, context, question: .*--answer_col"
    ):
        load("question_answering", args, "test")
    args = data_args("summarization", test_file=write("texts.jsonl", [{"dialogue": "a"}]))
    assert load("summarization", args, "test", labelled=False)["source"][:] == ["a"]


def test_a_missing_column_is_named_with_those_there_are(write, data_args):
    rows = [{"passage": "p", "question": "q", "answers": ["a"]}]
    path = write("rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"no column 'context' .* has passage, question, answers: .*--context_column"):
        load("question_answering", data_args("question_answering", validation_file=path))
    args = data_args("question_answering", validation_file=path, context_column="passage")
    assert load("question_answering", args)["source"][:] == ["p"]


def test_a_record_without_the_column_is_named(write, data_args):
    path = write("rows.jsonl", [SAMSUM[0], {"id": "x", "dialogue": "y"}])
    with pytest.raises(ValueError, match=r"record 2 of .* has no 'summary'; it has id, dialogue"):
        load("summarization", data_args("summarization", validation_file=path))


def test_a_column_that_holds_no_text_is_named(write, data_args):
    path = write("rows.jsonl", [{"document": ["a"], "summary": "b"}])
    with pytest.raises(ValueError, match=r"record 1 of .*document.*holds a list where text is expected"):
        load("summarization", data_args("summarization", validation_file=path))


def test_a_text_that_cannot_be_encoded_is_named(write, data_args):
    path = write("rows.jsonl", [SAMSUM[0], {**SAMSUM[1], "summary": "a\ud83d"}])
    with pytest.raises(ValueError, match=r"record 2 of .* half a surrogate pair at character 1"):
        load("summarization", data_args("summarization", validation_file=path))


def test_other_columns_may_hold_anything(write, data_args):
    rows = [{**SAMSUM[0], "meta": 1}, {**SAMSUM[1], "meta": {"deep": []}}, {**SAMSUM[2], "meta": "x"}]
    assert len(load("summarization", data_args("summarization", validation_file=write("rows.jsonl", rows)))) == 3


def test_questions_without_answer_need_the_flag(write, data_args):
    rows = [*SQUAD, {"id": "q2", "context": "c", "question": "q", "answers": {"text": [], "answer_start": []}}]
    path = write("rows.jsonl", rows)
    with pytest.raises(ValueError, match=r"1 of 3 questions .* --version_2_with_negative True"):
        load("question_answering", data_args("question_answering", validation_file=path))
    args = data_args("question_answering", validation_file=path, version_2_with_negative=True)
    assert find_task("question_answering", args).metric == "squad_v2"
    assert load("question_answering", args)["target"][:] == ["Ada", "blue", ""]


# --- values -----------------------------------------------------------------------------------------------------------

WHOLE = {
    "question_answering": {"context": "It is Ada.", "question": "who?", "answers": ["Ada"]},
    "summarization": {"dialogue": "A: hi", "summary": "They greet."},
    "translation": {"de": "Haus", "en": "house"},
    "language_modeling": {"prompt": "Where? ", "text": "Here."},
}
FLAGS = {
    "translation": {"source_lang": "de", "target_lang": "en"},
    "language_modeling": {"prompt_column": "prompt"},
}
# What stands where text is expected -> how the sentence calls it.
NO_TEXT = {
    "true": (True, "true"),
    "a number": (12, "the number 12"),
    "a broken number": (0.5, "the number 0.5"),
    "infinity": (float("inf"), "the number inf"),
    "a list": (["a"], "a list"),
    "an object": ({"a": "b"}, "an object"),
    "half a pair": ("a\ud83d", "half a surrogate pair at character 1"),
}
NULLS = {"null": None, "NaN": float("nan")}
NEEDED = {("question_answering", "context"), ("question_answering", "question"), ("translation", "de")}
NEEDED |= {("language_modeling", "prompt")}
COLUMNS = [(kind, column) for kind, record in WHOLE.items() for column in record if column != "answers"]


@pytest.fixture
def read(write, data_args, tmp_path):
    """Function (kind, changes of the second of three records, how they are kept, flags) -> the examples."""

    def make(kind, changes, kept="jsonl", **flags):
        records = [{"id": str(i), **WHOLE[kind], **(changes if i == 1 else {})} for i in range(3)]
        if kept == "jsonl":
            source = {"validation_file": write("rows.jsonl", records)}
        else:
            Dataset.from_list(records).save_to_disk(tmp_path / "saved")
            source = {"dataset_name": str(tmp_path / "saved")}
        return load(kind, data_args(kind, **source, **FLAGS.get(kind, {}), **flags))

    return make


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
@pytest.mark.parametrize(("value", "held"), NO_TEXT.values(), ids=NO_TEXT)
def test_what_is_no_text_is_refused_by_record_and_column(read, kind, column, value, held):
    with pytest.raises(ValueError, match=rf"^record 2 of .*rows.jsonl: column '{column}' holds {held}"):
        read(kind, {column: value})


@pytest.mark.parametrize(("kind", "column"), COLUMNS)
@pytest.mark.parametrize(("kept", "null"), [("jsonl", None), ("jsonl", float("nan")), ("table", None)])
def test_null_is_null_in_files_and_in_tables(read, caplog, kind, column, null, kept):
    if (kind, column) in NEEDED:
        with pytest.raises(ValueError, match=rf"^record 2 of .*: column '{column}' holds null where text is expected"):
            read(kind, {column: null}, kept)
    else:
        assert read(kind, {column: null}, kept)["id"][:] == ["0", "2"]
        assert "1 of 3 records" in caplog.text and "left out" in caplog.text


@pytest.mark.parametrize("value", [True, 12, 0.5])
def test_columns_of_a_table_that_hold_no_text_are_refused(tmp_path, data_args, value):
    Dataset.from_list([{"dialogue": "A: hi", "summary": value}] * 4).save_to_disk(tmp_path / "saved")
    for workers in (None, 2):
        args = data_args("summarization", dataset_name=str(tmp_path / "saved"), preprocessing_num_workers=workers)
        with pytest.raises(ValueError, match=r"^record [13] of .*: column 'summary' holds (true|the number)"):
            load("summarization", args)


def test_a_column_of_numbers_that_are_missing_is_null(tmp_path, data_args):
    rows = [{"dialogue": "A: hi", "summary": float("nan")}, {"dialogue": "A: hi", "summary": float("nan")}]
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    args = data_args("summarization", dataset_name=str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"each of the 2 records of .* has an empty text or no reference"):
        load("summarization", args)


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_a_question_without_answer_is_refused_by_number_or_unanswerable(read, null):
    with pytest.raises(ValueError, match=r"1 of 3 questions .* the first of them record 2; with --version_2_with"):
        read("question_answering", {"answers": null})
    found = read("question_answering", {"answers": null}, version_2_with_negative=True)
    assert found["references"][:] == [["Ada"], [], ["Ada"]]


def test_a_question_without_answer_has_no_rouge_and_is_left_out_with_a_count(write, data_args, caplog):
    rows = [{"document": {"summary": {"text": "A tale."}}, "question": {"text": "Who?"}}] * 2
    rows = [{**row, "answers": answers} for row, answers in zip(rows, (None, [{"text": "Ada"}]), strict=True)]
    args = data_args("question_answering", dataset_name="narrativeqa", validation_file=write("rows.jsonl", rows))
    assert load("question_answering", args)["references"][:] == [["Ada"]]
    assert "1 of 2 records" in caplog.text


def test_a_number_is_an_answer(read):
    assert read("question_answering", {"answers": 1912})["references"][1] == ["1912"]


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused(read, question):
    with pytest.raises(ValueError, match=r"record 2 of .*: column 'question' holds an empty text where a question"):
        read("question_answering", {"question": question})


@pytest.mark.parametrize(("kind", "column"), [("question_answering", "context"), ("translation", "de")])
def test_empty_texts_to_read_are_counted(read, caplog, kind, column):
    assert read(kind, {column: " "})["source"][1].strip() == ""
    assert "1 of 3 records of" in caplog.text and "have an empty text to read" in caplog.text


def test_cells_of_csv_are_text_whatever_they_say(write, data_args):
    path = write("rows.csv", "dialogue,summary\nnan,true\nnull,12\nNone,NaN\n")
    examples = load("summarization", data_args("summarization", validation_file=path))
    assert examples["source"][:] == ["nan", "null", "None"]
    assert examples["references"][:] == [["true"], ["12"], ["NaN"]]


def test_an_empty_cell_of_csv_is_no_reference(write, data_args, caplog):
    path = write("rows.csv", 'dialogue,summary\nA: hi,\n"A: hi","They greet."\n')
    assert len(load("summarization", data_args("summarization", validation_file=path))) == 1
    assert "1 of 2 records" in caplog.text


def test_an_empty_cell_of_csv_is_no_translation(write, data_args, caplog):
    path = write("rows.csv", "de,en\nguten tag,\nguten abend,good evening\n")
    flags = {"source_lang": "de", "target_lang": "en"}
    assert load("translation", data_args("translation", validation_file=path, **flags))["target"][:] == ["good evening"]
    assert "1 of 2 records" in caplog.text


@pytest.mark.parametrize(("given", "name"), [(None, "1"), (float("nan"), "1"), ("", "1"), (7, "7"), ("x", "x")])
def test_an_id_that_is_missing_is_the_number_of_the_record(read, given, name):
    assert read("summarization", {"id": given})["id"][1] == name


def test_an_id_that_is_no_valid_text_is_refused(read):
    with pytest.raises(ValueError, match=r"record 2 of .*: column 'id' holds half a surrogate pair"):
        read("summarization", {"id": "\ud83d"})


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_references_that_rouge_cannot_see_are_counted(write, data_args, caplog):
    summaries = ("他们打招呼", "Они здороваются.", "他们在2024年打招呼", "They greet.", "Señor Ñandú café")
    rows = [{"dialogue": "A: hi", "summary": summary} for summary in summaries]
    path = write("rows.jsonl", rows)
    load("summarization", data_args("summarization", validation_file=path))
    assert "3 of 5 references of" in caplog.text and "--rouge_tokenizer unicode keeps the words" in caplog.text
    caplog.clear()
    load("summarization", data_args("summarization", validation_file=path, rouge_tokenizer="unicode"))
    load("summarization", data_args("summarization", train_file=path), "train")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_references_that_bleu_takes_for_single_words_are_counted(write, data_args, caplog):
    languages = {"source_lang": "src", "target_lang": "tgt"}
    path = write("rows.jsonl", [{"src": "Hi.", "tgt": "你好。"}, {"src": "Bye.", "tgt": "Bis bald."}])
    load("translation", data_args("translation", validation_file=path, **languages))
    assert "1 of 2 references of" in caplog.text and "--bleu_tokenizer zh or char takes them apart" in caplog.text
    caplog.clear()
    load("translation", data_args("translation", validation_file=path, **languages, bleu_tokenizer="zh"))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_the_tokenizer_in_force_is_that_of_the_task(data_args, caplog):
    flags = {"rouge_tokenizer": "unicode"}
    assert find_task("summarization", data_args("summarization", **flags)).tokenizer == "unicode"
    assert find_task("summarization", data_args("summarization", rouge_tokenizer="rouge_score")).tokenizer is None
    named = data_args("question_answering", dataset_name="narrativeqa", **flags)
    assert find_task("question_answering", named).tokenizer == "unicode"
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert find_task("question_answering", data_args("question_answering", **flags)).tokenizer is None
    assert "--rouge_tokenizer has no effect" in caplog.text


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["samsum", "Samsung/samsum", "knkarthick/samsum"])
def test_familiar_names_old_spellings_and_hub_ids_are_one_task(data_args, name):
    assert find_task("summarization", data_args("summarization", dataset_name=name)) is TASKS["samsum"]


def test_a_name_of_another_kind_is_refused(data_args):
    with pytest.raises(
        ValueError, match=r"samsum is a data set for summarization, not for question_answering, .*squad"
    ):
        find_task("question_answering", data_args("question_answering", dataset_name="samsum"))


def test_an_unknown_name_is_passed_on(data_args):
    task = find_task("summarization", data_args("summarization", dataset_name="someone/news"))
    assert task.sources == (Source("someone/news"),)
    assert task.metric == "rouge"


def calls_of_load_dataset(monkeypatch, failing=()):
    calls = []

    def load_dataset(path, **options):
        calls.append((path, {key: value for key, value in options.items() if value is not None}))
        if path in failing:
            raise RuntimeError(f"Dataset scripts are no longer supported, but found {path}.py\nmore")
        return Dataset.from_list([{"description": "a", "abstract": "b", "translation": {"de": "a", "en": "b"}}])

    monkeypatch.setattr("tasks.loading.load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("config", [None, "iwslt2017-en-de"])
def test_iwslt_is_read_from_the_converted_branch(monkeypatch, data_args, config):
    calls = calls_of_load_dataset(monkeypatch)
    args = data_args("translation", dataset_name="iwslt2017", dataset_config_name=config)
    examples = load("translation", args, "test")
    folder = config or "iwslt2017-de-en"
    options = {"data_dir": folder, "revision": "refs/convert/parquet", "split": "test"}
    assert calls == [("IWSLT/iwslt2017", options)]
    assert (examples[0]["source"], examples[0]["target"]) == (("b", "a") if config else ("a", "b"))


def test_the_fallback_is_used_with_a_warning(monkeypatch, data_args, caplog):
    first, second = TASKS["big_patent"].sources
    calls = calls_of_load_dataset(monkeypatch, failing={first.path})
    load("summarization", data_args("summarization", dataset_name="big_patent", dataset_config_name="d"))
    assert [(path, options.get("name")) for path, options in calls] == [(first.path, "d"), (second.path, "d")]
    assert f"read from {second.path} instead" in caplog.text


def test_a_name_that_does_not_load_is_one_sentence(monkeypatch, data_args):
    calls_of_load_dataset(monkeypatch, failing={"someone/news"})
    with pytest.raises(
        ValueError, match=r"someone/news cannot be loaded \(.*found someone/news.py\); without"
    ) as caught:
        load("summarization", data_args("summarization", dataset_name="someone/news"))
    assert "\n" not in str(caught.value)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_saved_folder_called_like_a_data_set_has_its_columns(tmp_path, data_args):
    rows = [{"title": "t", "abstract": "short", "description": "long"}]
    DatasetDict({"validation": Dataset.from_list(rows)}).save_to_disk(tmp_path / "big_patent")
    args = data_args("summarization", dataset_name=str(tmp_path / "big_patent"))
    assert load("summarization", args)["source"][:] == ["long"]
    with pytest.raises(ValueError, match=r"it has no split test, but validation"):
        load("summarization", args, "test")


def test_a_folder_of_parquet_files_called_by_split(tmp_path, data_args):
    (tmp_path / "news").mkdir()
    Dataset.from_list([{"article": "a", "highlights": "b"}] * 3).to_parquet(tmp_path / "news" / "validation.parquet")
    args = data_args("summarization", dataset_name=str(tmp_path / "news"), max_eval_samples=2)
    assert load("summarization", args)["target"][:] == ["b", "b"]


def test_narrativeqa_columns_are_found_in_depth(tmp_path, data_args):
    row = {
        "document": {"id": "x", "summary": {"text": "A tale.", "url": ""}, "text": "the whole book"},
        "question": {"text": "Who?", "tokens": ["Who", "?"]},
        "answers": [{"text": "Ada", "tokens": ["Ada"]}, {"text": "Ada Q.", "tokens": []}],
    }
    Dataset.from_list([row]).save_to_disk(tmp_path / "narrativeqa")
    args = data_args("question_answering", dataset_name=str(tmp_path / "narrativeqa"))
    example = load("question_answering", args)[0]
    assert example["prompt"] + example["source"] == "question: Who? context: A tale."
    assert example["references"] == ["Ada", "Ada Q."]
    assert find_task("question_answering", args).metric == "rouge"


def test_a_saved_folder_and_a_file_give_the_same_examples(tmp_path, write, data_args):
    Dataset.from_list(SQUAD).save_to_disk(tmp_path / "saved")
    saved = load("question_answering", data_args("question_answering", dataset_name=str(tmp_path / "saved")))
    read = load("question_answering", data_args("question_answering", validation_file=write("dev.jsonl", SQUAD)))
    assert saved.to_list() == read.to_list()


def test_a_saved_folder_is_left_as_it_is(tmp_path, data_args, tokenizer):
    Dataset.from_list(SQUAD).save_to_disk(tmp_path / "saved")
    before = sorted(path.name for path in (tmp_path / "saved").rglob("*"))
    args = data_args("question_answering", dataset_name=str(tmp_path / "saved"))
    task = find_task("question_answering", args)
    train_features(task, load_examples(task, args, "train"), tokenizer, args)
    assert sorted(path.name for path in (tmp_path / "saved").rglob("*")) == before


def test_a_folder_saved_from_one_split_is_not_taken_for_another(tmp_path, data_args):
    Dataset.from_list(SQUAD, split="train").save_to_disk(tmp_path / "saved")
    args = data_args("question_answering", dataset_name=str(tmp_path / "saved"))
    assert len(load("question_answering", args, "train")) == 2
    with pytest.raises(ValueError, match=r"it has no split validation, but train"):
        load("question_answering", args)


def test_a_file_beside_a_name_is_read_in_the_columns_of_the_name(write, data_args):
    rows = [{"summary": "short", "topic": "x", "dialogue": "long"}]
    args = data_args("summarization", dataset_name="samsum", validation_file=write("rows.json", json.dumps(rows)))
    assert load("summarization", args)["source"][:] == ["long"]


def test_a_split_a_folder_lacks_is_told_without_advice_that_does_not_help(tmp_path, data_args):
    Dataset.from_list(SQUAD, split="train").save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has no split validation, but train\)$"):
        load("question_answering", data_args("question_answering", dataset_name=str(tmp_path / "saved")))


@pytest.mark.parametrize(
    ("kind", "name"), [("question_answering", "invented_facts"), ("summarization", "invented_dialogues")]
)
def test_invented_data_need_no_network_and_differ_by_split(data_args, kind, name):
    limits = {"max_train_samples": 20, "max_eval_samples": 20, "max_predict_samples": 20}
    args = data_args(kind, dataset_name=name, **limits)
    splits = [set(load(kind, args, split)["source"]) for split in ("train", "validation", "test")]
    assert all(splits)
    assert not splits[0] & splits[1] and not splits[1] & splits[2] and not splits[0] & splits[2]


def test_loading_says_nothing_where_nothing_is_wrong(write, data_args, caplog):
    with caplog.at_level(logging.WARNING):
        load("summarization", data_args("summarization", validation_file=write("rows.jsonl", SAMSUM)))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
