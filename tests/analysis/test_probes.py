"""Probes of statements: what is read of a model, a planted signal and permuted labels, baselines, files, resuming."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from analysis import probes
from analysis.drawing import drawn_before
from analysis.figures import PAINTS
from analysis.probe_features import ASKED, Evidence, HashedLogits, Question, Reader, statement_rows
from analysis.probe_fits import (
    BASELINES,
    CHOSEN,
    MAJORITY,
    RANDOM,
    UNSEEN,
    VOTE,
    Outcome,
    Split,
    above,
    chosen_layer,
    halves,
    numbers,
    permuted,
    probe_outcomes,
    splits,
)
from jobs.fitting import Part
from models import DeployGPT2LMHeadModel, DeployT5ForConditionalGeneration
from support_figures import problems
from tasks.statements import Statement
from util.files import read_json

TEXTS = ["The tower of Dover is old.", "Ann went home.", "It costs five, or so they say.", "Nobody knows."]
PER_TOPIC = 120


# ---------------------------------------------------------------------------------------------------- what a model says
@torch.no_grad()
@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_evidence_is_the_librarys_of_the_statement_alone(kind, request, tmp_path):
    folder = request.getfixturevalue(f"tiny_{kind}_dir")
    made = {"gpt2": DeployGPT2LMHeadModel, "t5": DeployT5ForConditionalGeneration}[kind]
    model, tokenizer = made.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    question, encoder_decoder = Question.of(tokenizer), kind == "t5"
    rows = statement_rows([Statement(text, True, "t") for text in TEXTS], tokenizer, question, encoder_decoder)
    found = Reader(model, question, (1, 3), "hidden", 0).read(rows, 3, Part(tmp_path / "kept", {}), "Reading")
    hashed = Reader(model, question, (2,), "logits", 16).read(rows, 3, Part(tmp_path / "other", {}), "Reading")
    unembed = model.unembed()
    for place, text in enumerate(TEXTS):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        asked = tokenizer(ASKED, add_special_tokens=False)["input_ids"]
        assert question.tokens[: len(asked)] == asked

        def read(ids, text=text):
            """States of every layer at each token, and what the last layer says behind it."""
            if encoder_decoder:
                inputs = {"decoder_input_ids": torch.tensor([[0, *ids]]), **tokenizer(text, return_tensors="pt")}
                done = model(**inputs, output_hidden_states=True)
                return done.decoder_hidden_states, done.logits[0].log_softmax(-1)
            done = model(torch.tensor([ids]), output_hidden_states=True)
            return done.hidden_states, done.logits[0].log_softmax(-1)

        states, log_p = read(ids)
        expected = torch.stack([states[layer][0, -1] for layer in (1, 3)])
        torch.testing.assert_close(found.features[place], expected, atol=1e-4, rtol=1e-4)
        expected = HashedLogits(unembed.vocabulary_size, 16)(unembed.logits(unembed.normalise(states[2][:, -1], 2)))
        torch.testing.assert_close(hashed.features[place], expected, atol=1e-2, rtol=1e-4)
        predicted = torch.tensor(ids if encoder_decoder else ids[1:])
        own = log_p[:-1].gather(1, predicted[:, None]).mean()
        torch.testing.assert_close(found.token_log_p[place], own, atol=1e-4, rtol=1e-4)
        said = read([*ids, *question.tokens])[1][-1]
        true, false = question.words
        torch.testing.assert_close(found.answer[place], said[true] - said[false], atol=1e-3, rtol=1e-3)


def test_hashed_logits_are_signed_sums_that_no_constant_changes():
    drawn = torch.Generator().manual_seed(3)
    logits, hashed = torch.randn(5, 400, generator=drawn), HashedLogits(400, 300)
    matrix = torch.zeros(400, 300)
    matrix[torch.arange(400), hashed.places] = hashed.signs
    torch.testing.assert_close(hashed(logits), logits.log_softmax(-1) @ matrix, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(hashed(logits + 7), hashed(logits), atol=1e-3, rtol=1e-4)


# ------------------------------------------------------------------------------------------------- splits and baselines
def made_up(topics=("a", "b", "c"), each=40):
    names = [topic for topic in topics for _ in range(each)]
    return names, np.arange(len(names)) % 2 == 0


def test_splits_part_all_statements_and_keep_a_topic_unseen():
    names, labels = made_up()
    random, *by_topic = splits(names, labels, 0.25, 0)
    for split in (random, *by_topic):
        assert sorted([*split.train, *split.test]) == list(range(len(names)))
    assert random.name == RANDOM and len(random.test) == 30
    counts = {(names[place], labels[place]) for place in random.test}
    assert len(counts) == 6 and [each.name for each in by_topic] == ["a", "b", "c"]
    for split in by_topic:
        assert {names[place] for place in split.test} == {split.name}
    assert [split.name for split in splits(names[:40], labels[:40], 0.25, 0)] == [RANDOM], "of one topic none is unseen"
    with pytest.raises(ValueError, match="a has 1 statements of one label"):
        splits(["a"] * 9, np.arange(9) > 0, 0.25, 0)


def test_permuted_labels_are_those_of_their_topic():
    names, labels = made_up(each=41)
    found = permuted(names, labels, 0)
    assert (found != labels).any() and (permuted(names, labels, 0) == found).all()
    for topic in "abc":
        here = np.array(names) == topic
        assert found[here].sum() == labels[here].sum()


def test_a_threshold_is_right_most_often_on_the_training_part():
    drawn = np.random.default_rng(1)
    values, labels = drawn.standard_normal(60), drawn.random(60) < 0.5
    split = Split("s", np.arange(40), np.arange(40, 60))
    train = values[:40]
    best = max(((train > edge) == labels[:40]).mean() for edge in [-np.inf, *train])
    assert ((above(values, labels, split) == labels)[:40]).mean() == best
    said = above(np.where(labels, 1.0, 0.0), labels, split)
    assert (said == labels).all()


def test_baselines_say_what_they_are():
    labels = np.array([True] * 6 + [False] * 4)
    split = Split("s", np.arange(0, 10, 2), np.arange(1, 10, 2))
    likely = torch.tensor(np.where(labels, -1.0, -3.0))
    evidence = Evidence(torch.zeros(10, 1, 1), likely, torch.arange(10) - 2.5)
    said = {name: says(evidence, labels, split) for name, says in BASELINES.items()}
    assert said[MAJORITY].all() and (said["token probability"] == labels).all()
    assert (said["own next token"] == (np.arange(10) > 2)).all()
    few = BASELINES[MAJORITY](evidence, labels, Split("s", np.arange(6), np.arange(6, 10)))
    assert few[:6].all() and not few[6:].any(), "each part has a class that most are of"


def test_a_layer_is_chosen_on_other_statements_than_those_it_tells():
    folds = np.repeat([0, 1, 2], 4)
    right = {5: folds != 2, 7: folds == 2, 9: np.arange(12) < 7}
    found = [Outcome("mlp", layer, 0.1, None, each) for layer, each in right.items()]
    held = chosen_layer([*found, Outcome("logistic", 5, 0.1, None, ~folds.astype(bool))], "mlp", folds)
    assert held.layer == CHOSEN and held.chosen == (5, 5, 5)
    assert held.test.tolist() == [True] * 8 + [False] * 4
    luck = chosen_layer([Outcome("mlp", layer, 0, None, folds == layer) for layer in range(3)], "mlp", folds)
    assert luck.chosen == (1, 0, 0) and not luck.test.any(), "what is best where it is tested is not chosen there"


def test_of_many_layers_that_know_nothing_the_chosen_one_tells_by_chance():
    drawn = np.random.default_rng(3)
    labels = np.arange(80) % 2 == 0
    found = [Outcome("mlp", layer, 0, None, drawn.random(80) < 0.5) for layer in range(30)]
    found.append(Outcome(MAJORITY, None, None, None, labels))
    best = max(numbers(RANDOM, found), key=lambda row: row["test_accuracy"]["value"])
    row = numbers(RANDOM, [*found, chosen_layer(found, "mlp", halves(80, 0))])[-1]
    assert best["test_accuracy"]["value"] > 0.56, "which is luck"
    assert row["test_accuracy"]["interval"][0] < 0.5 and row["over_majority"]["interval"][0] < 0


def test_the_majority_of_layers_decides_and_ties_go_to_the_mean():
    labels, split = np.array([True, True, False]), Split("s", np.arange(1), np.arange(3))
    p = {0: [0.9, 0.2, 0.6], 1: [0.4, 0.9, 0.3]}
    fits = {
        f"s/mlp/{place}": {"train_loss": 0.1, "train": torch.tensor([0.9]), "test": torch.tensor(each)}
        for place, each in p.items()
    }
    *layers, vote = probe_outcomes(fits, labels, split, "mlp", (4, 9))
    assert [each.layer for each in layers] == [4, 9] and vote.layer == VOTE
    assert vote.test.tolist() == [True, True, True], "0.65, 0.55 and 0.45 on the whole"


# ----------------------------------------------------------------------------------------------------------- end to end
@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Statements of two topics whose labels nothing in them tells, and the labels by what the texts say."""
    folder, drawn = tmp_path_factory.mktemp("statements"), np.random.default_rng(5)
    labels, found = {}, []
    for topic in ("towers", "houses"):
        lines = ["statement,label"]
        truths = drawn.permutation(np.arange(PER_TOPIC) % 2)
        for number, truth in enumerate(truths):
            text = f"One of the {topic} has {number + 100} steps"
            labels[text] = bool(truth)
            lines.append(f"{text}.,{truth}")
        found.append(folder / f"{topic}_true_false.csv")
        found[-1].write_text("\n".join(lines))
    return found, labels


@pytest.fixture
def knows(files, tiny_gpt2_dir, monkeypatch):
    """Has the model's second layer write the label of what it reads into its states."""
    labels, tokenizer = files[1], AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    load = probes.load_model

    def planted(*given, **more):
        model, read = load(*given, **more), {}

        def watch(module, inputs, named):
            texts = tokenizer.batch_decode(named["input_ids"])
            signs = [1.0 if labels[text.split(".")[0].strip()] else -1.0 for text in texts]
            read["signs"] = torch.tensor(signs)[:, None, None]

        def write(module, inputs, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden += 4 * hidden.std() * read["signs"]

        model.transformer.register_forward_pre_hook(watch, with_kwargs=True)
        model.transformer.h[1].register_forward_hook(write)
        return model

    monkeypatch.setattr(probes, "load_model", planted)


def run(folder, files, out, *more):
    flags = ["--model_name_or_path", folder, "--data", *files[0], "--out", out, *more]
    return probes.main(list(map(str, flags)))


def of(rows, split, name, layer):
    return next(row for row in rows if (row["split"], row["name"], row["layer"]) == (split, name, layer))


def near_chance(row):
    return abs(row["test_accuracy"]["value"] - 0.5) < 4 * 0.5 / row["n"] ** 0.5


def within_its_interval(row):
    low, high = row["test_accuracy"]["interval"]
    return low <= 0.5 <= high


def test_a_planted_signal_is_found_where_it_is(files, knows, tiny_gpt2_dir, tmp_path, capsys):
    rows = run(tiny_gpt2_dir, files, tmp_path)
    for split, name in ((RANDOM, "mlp"), (RANDOM, "logistic"), (UNSEEN, "logistic"), ("houses", "logistic")):
        assert of(rows, split, name, 2)["test_accuracy"]["value"] > 0.9
        assert of(rows, split, name, 2)["over_majority"]["interval"][0] > 0.3
        assert near_chance(of(rows, split, name, 1)), "below the layer that knows"
    for name in (MAJORITY, "token probability"):
        assert near_chance(of(rows, RANDOM, name, None))
    assert of(rows, RANDOM, "mlp", VOTE)["test_accuracy"]["value"] > 0.8, "three of four layers know"
    assert of(rows, RANDOM, "logistic", 2)["train_loss"] < of(rows, RANDOM, "logistic", 1)["train_loss"]
    said = capsys.readouterr().out
    assert (tmp_path / "probes_table.txt").read_text() in said
    assert "random: logistic at the layer that other statements choose (2): " in said
    assert of(rows, UNSEEN, "logistic", CHOSEN)["test_accuracy"]["value"] > 0.9
    assert len(read_json(tmp_path / "probes_numbers.json")) == len(rows)
    for name in ("probes", "probes_by_topic"):
        drawing = drawn_before(tmp_path / f"{name}.json", PAINTS)
        assert problems(drawing.figure()) == [] and drawing.examples == "n = 240 tested"


def test_permuted_labels_are_told_by_chance(files, knows, tiny_gpt2_dir, tmp_path):
    rows = run(tiny_gpt2_dir, files, tmp_path, "--permute_labels")
    tested = [row for row in rows if row["layer"] in (1, 2, 3, 4) and row["split"] in (RANDOM, UNSEEN)]
    assert all(map(near_chance, tested)) and len(tested) == 16
    assert sum(map(within_its_interval, tested)) >= 12
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "probes_permuted.png",
        "probes_permuted_by_topic.png",
    ]


def test_what_was_read_and_fitted_is_not_again(files, tiny_gpt2_dir, tmp_path, monkeypatch):
    some = ("--layers", "2,4", "--probe", "logistic", "--limit", 16)
    whole = run(tiny_gpt2_dir, files, tmp_path / "whole", *some)
    monkeypatch.setattr("jobs.fitting.SAVED_EVERY", 0.0)
    out, fit, left = tmp_path / "killed", probes.fit_all.__globals__["fit"], iter(range(3))

    def dies(*given):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return fit(*given)

    monkeypatch.setitem(probes.fit_all.__globals__, "fit", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_gpt2_dir, files, out, *some)
    assert sorted(path.name for path in out.iterdir()) == ["features", "probes_fits.part"]
    calls = []
    monkeypatch.setitem(probes.fit_all.__globals__, "fit", lambda *given: calls.append(1) or fit(*given))
    monkeypatch.setattr(Reader, "_batch", None)
    assert run(tiny_gpt2_dir, files, out, *some) == whole
    assert len(calls) == 6 - 3, "of two layers on three splits"
    run(tiny_gpt2_dir, files, out, *some, "--permute_labels")
    assert len(calls) == 6 - 3 + 6, "which is read by nobody either"


def test_logits_of_one_topic_of_an_encoder_decoder(files, tiny_t5_dir, tmp_path, capsys):
    more = ("--features", "logits", "--hashed_logits", 32, "--layers", "4", "--probe", "logistic", "--limit", 40)
    rows = run(tiny_t5_dir, (files[0][:1], None), tmp_path, *more)
    assert {row["split"] for row in rows} == {RANDOM} and of(rows, RANDOM, "logistic", 4)["n"] == 10
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["probes_logits.png"]
    assert UNSEEN not in capsys.readouterr().out.split("Accuracies")[0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--probe", "forest"], "--probe forest: valid are mlp, logistic"),
        (["--features", "dreams"], "--features dreams is not known: valid are hidden, logits"),
        (["--layers", "0"], "--layers 0: valid are all, or layers from 1 to 4"),
        (["--test_share", "1"], "--test_share 1.0: valid are numbers from 0.05 to 0.95"),
        (["--data", "absent.csv"], "absent.csv is not there"),
        (["--limit", "4"], "statements of one label: at least 4 true and 4 false ones"),
    ],
)
def test_what_cannot_be_done_ends_with_one_sentence(flags, said, files, tiny_gpt2_dir, tmp_path, capsys):
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        run(tiny_gpt2_dir, files, out, *flags)
    assert stop.value.code == 2 and said in capsys.readouterr().err and not out.exists()
