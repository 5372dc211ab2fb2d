"""What every layer says behind a prompt, against the library's own hidden states; tables, pictures, refusals."""

import copy

import pytest
import torch
from transformers import AutoTokenizer

from analysis.figures import redraw_all
from analysis.lens_figures import MOST_PANELS, QUANTITIES, cells, in_cell, lines, text_of
from analysis.lens_reading import WAYS, Answer, answers_to, continuation, read, ways_of
from analysis.prompt_lens import main
from decoding.lens import rank_of
from models import DeployGPT2LMHeadModel
from models.translators import save_translators
from support import MODELS, OFF, VOCABULARY, double_precision, in_float64, translated, with_translators
from util.files import read_json, write_json, write_text

PROMPT = "The tower of Dover"


class Numbers:
    """A tokenizer that knows how tokens read."""

    def decode(self, ids):
        return f"<{ids[0]}>"


@pytest.fixture(scope="module")
def model(tiny_gpt2_dir):
    return DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_gpt2_dir):
    return AutoTokenizer.from_pretrained(tiny_gpt2_dir)


def lens_of(model, tokenizer, prompt=PROMPT, tokens=2, top_k=3, **how):
    return read(model, tokenizer, [continuation(model, tokenizer, prompt, tokens)], top_k, ways_of(model, **how))


def library_states(model, answer: Answer) -> list[torch.Tensor]:
    """hidden_states of the library where each token of an answer is predicted, [T, D] each; the last is normed."""
    ids, said = torch.tensor([answer.prompt_ids]), torch.tensor([answer.ids])
    if model.config.is_encoder_decoder:
        start = torch.tensor([[model.config.decoder_start_token_id]])
        decoder_ids = torch.cat([start, said[:, :-1]], 1)
        found = model(input_ids=ids, decoder_input_ids=decoder_ids, output_hidden_states=True, use_cache=False)
        return [state[0] for state in found.decoder_hidden_states]
    whole = torch.cat([ids, said], 1)
    found = model(whole, output_hidden_states=True, use_cache=False).hidden_states
    return [state[0, len(answer.prompt_ids) - 1 : -1] for state in found]


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MODELS)
def test_layers_are_the_librarys_states_through_its_norm_and_head(kind, way):
    exact = with_translators(MODELS[kind](3), (1, 3))
    answer = Answer("", "continuation", [5, 9, 17, 30], [8, 11, 40])
    with double_precision(exact):
        (passage,) = read(exact, Numbers(), [answer], 4, [way])
        *below, last = library_states(exact, answer)
        norm = exact.get_submodule(exact.final_norm)
        reads = {
            "raw": lambda state, layer: state,
            "normed": lambda state, layer: norm(state),
            "translated": lambda state, layer: norm(translated(exact, state, layer)),
        }[way]
        states = torch.stack([*(reads(state, layer) for layer, state in enumerate(below)), last])  # [L + 1, T, D]
        log_p = exact.unembed()(states).log_softmax(-1)
        expected = log_p.exp().topk(4, dim=-1).values
        divergence = (log_p[-1].exp() * (log_p[-1] - log_p)).sum(-1)
        for place, reading in enumerate(passage.readings[way]):
            torch.testing.assert_close(torch.tensor(reading.probabilities), expected[:, place], atol=OFF, rtol=OFF)
            torch.testing.assert_close(torch.tensor(reading.divergence), divergence[:, place], atol=OFF, rtol=OFF)
            token = torch.full((len(log_p),), answer.ids[place])
            assert reading.rank == rank_of(log_p[:, place], token).tolist()
            assert reading.text == f"<{answer.ids[place]}>" and len(reading.tokens) == len(below) + 1


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "tied", "granite", "opt"])
def test_the_head_is_the_models_own(kind):
    """The last layer gives what `forward` gives."""
    exact = MODELS[kind](1)
    answer = Answer("", "continuation", [5, 9, 17, 30], [8, 11, 40])
    with double_precision(exact):
        (passage,) = read(exact, Numbers(), [answer], VOCABULARY, ["normed"])
        whole = torch.tensor([answer.prompt_ids + answer.ids])
        if exact.config.is_encoder_decoder:
            more = {"decoder_input_ids": torch.tensor([[0, *answer.ids[:-1]]])}
            logits = exact(input_ids=torch.tensor([answer.prompt_ids]), **more).logits[0]
        else:
            logits = exact(whole).logits[0, 3:-1]
        p = logits.softmax(-1).sort(-1, descending=True).values
        for place, reading in enumerate(passage.readings["normed"]):
            torch.testing.assert_close(torch.tensor(reading.probabilities[-1]), p[place], atol=OFF, rtol=OFF)


def test_the_last_layer_is_itself(model, tokenizer):
    (passage,) = lens_of(with_translators(copy.deepcopy(model)), tokenizer, tokens=4, compare=True)
    for readings in passage.readings.values():
        assert [(reading.divergence[-1], reading.rank[-1]) for reading in readings] == [(0.0, 1)] * 4
        assert all(reading.final[0] == reading.text == reading.tokens[-1][0] for reading in readings)
        assert all(min(reading.divergence) >= -1e-6 for reading in readings)


def test_ways_differ_below_the_last_layer_alone(model, tokenizer):
    changed = with_translators(copy.deepcopy(model), (1, 2))
    (passage,) = lens_of(changed, tokenizer, tokens=1, compare=True)
    raw, normed, moved = (readings[0].probabilities for readings in passage.readings.values())
    assert list(passage.readings) == list(WAYS)
    assert [a == b for a, b in zip(normed, moved, strict=True)] == [True, False, False, True, True]
    assert [a == b for a, b in zip(raw, normed, strict=True)] == [False] * 4 + [True]


def test_the_way_is_that_of_exits_unless_asked_otherwise(model):
    changed = with_translators(copy.deepcopy(model))
    assert ways_of(model) == ["normed"] and ways_of(changed) == ["translated"]
    assert ways_of(model, final_norm=False) == ways_of(changed, final_norm=False) == ["raw"]
    assert ways_of(model, compare=True) == ["raw", "normed"] and ways_of(changed, compare=True) == list(WAYS)


def test_answers_are_read_as_alone(model, tokenizer):
    """Several together give what each gives by itself, whatever their lengths."""
    with in_float64(), double_precision(copy.deepcopy(model)) as exact:
        asked = [continuation(exact, tokenizer, prompt, 3) for prompt in (PROMPT, "Ann", "It rains in")]
        together = read(exact, tokenizer, asked, 2, ["normed"])
        assert together == [read(exact, tokenizer, [each], 2, ["normed"])[0] for each in asked]


def test_a_gold_answer_follows_on_its_question(model, tokenizer):
    gold, own = answers_to(model, tokenizer, "Who is Ann?", "a tall woman", 50)
    whole = tokenizer("Who is Ann? a tall woman")["input_ids"]
    assert gold.prompt_ids + gold.ids == whole and gold.prompt_ids == own.prompt_ids and not gold.left_out
    assert own.ids == continuation(model, tokenizer, "Who is Ann?", 50).ids
    assert own.left_out == "the first 50 tokens of the generated answer, which goes on"  # it never ends
    short, _ = answers_to(model, tokenizer, "Who is Ann?", "a tall woman", 2)
    assert short.ids == gold.ids[:2]
    assert short.left_out == f"the first 2 of {len(gold.ids)} tokens of the gold answer"


def test_a_question_is_asked_as_the_model_was_taught(model, tokenizer):
    chatty = copy.deepcopy(tokenizer)
    chatty.chat_template = "{% for turn in messages %}Q: {{ turn.content }}\nA:{% endfor %}"
    gold, _ = answers_to(model, chatty, "Who is Ann?", "a woman", 9)
    assert chatty.decode(gold.prompt_ids).lstrip() == "Q: Who is Ann?\nA:"
    assert chatty.decode(gold.ids) == "a woman", "a template parts question and answer"


# --------------------------------------------------------------------------------------------------------------- output
def test_a_table_has_a_row_per_layer(model, tokenizer):
    text = text_of(lens_of(model, tokenizer, "Ann", 1, 2))
    rows = [line.split() for line in text.splitlines() if line.startswith("    ")]
    assert text.startswith("Prompt: 'Ann'\n\nNext: ") and [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert rows[-1][1:3] == ["0.000", "1"]


def test_cells_name_positions_and_of_one_position_its_likeliest(model, tokenizer):
    one, several = (lens_of(model, tokenizer, tokens=tokens, top_k=4) for tokens in (1, 3))
    (alone,) = cells("tokens", one, "m").values["rows"][0]["panels"]
    assert alone["columns"] == ["1", "2", "3", "4"]
    assert alone["cells"] == one[0].readings["normed"][0].tokens and alone["marked"][-1] == [True, False, False, False]
    (panel,) = cells("tokens", several, "m").values["rows"][0]["panels"]
    assert panel["columns"] == panel["cells"][-1], "the last layer says what stands there"
    for name in ("divergence", "rank"):
        (panel,) = cells(name, one, "m").values["rows"][0]["panels"]
        assert len(panel["cells"]) == 5 and len(panel["columns"]) == 1


@pytest.mark.parametrize("name", QUANTITIES)
def test_panels_are_passages_by_ways(model, tokenizer, name):
    changed = with_translators(copy.deepcopy(model))
    asked = [continuation(changed, tokenizer, prompt, 2) for prompt in ("Ann", "Bob $x_1$")]
    drawing = cells(name, read(changed, tokenizer, asked, 3, list(WAYS)), "m")
    figure = drawing.figure()
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == [f"{way}: {row.words}" for way, row in WAYS.items()] * 2
    assert [part.get_suptitle() for part in figure.subfigs] == ["Ann", r"Bob \$x_1\$"]
    assert drawing.examples == "n = 4 positions of 2 answers"


def test_what_is_not_shown_is_said(model, tokenizer):
    passages = read(model, tokenizer, answers_to(model, tokenizer, "Who?", "a tall woman", 9), 2, ["normed"])
    assert "9 tokens of the generated answer, which goes on" in cells("rank", passages, "m").note
    drawing = lines(passages, "normed")
    left_out = sum(len(each.answer.ids) for each in passages) - MOST_PANELS
    assert len(drawing.values["readings"]) == MOST_PANELS
    assert left_out > 0 and f"Left out: {left_out} positions" in drawing.note
    assert "Left out: looked at are the first 9 tokens" in text_of(passages)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (" Paris", "\u2423Paris"),
        ("\n", r"\n"),
        ("<|endoftext|>", "<|endoft\u2026"),
        ("$", r"\$"),
        ("日", r"\u65e5"),
        ("", "''"),
    ],
)
def test_a_cell_shows_blanks_and_what_the_font_lacks(text, shown):
    assert in_cell(text) == shown


def test_all_files_are_written_and_drawn_again(tiny_gpt2_dir, model, tmp_path, capsys):
    changed = with_translators(copy.deepcopy(model))
    save_translators(tmp_path / "t.safetensors", changed.exit_translators, changed)
    write_json(tmp_path / "more.json", [{"prompt": "Bob"}])
    flags = ["--model_name_or_path", str(tiny_gpt2_dir), "-p", "It costs $5 <b>", "Ann"]
    flags += ["--tokens", "1", "--top_k", "3"]
    flags += ["--prompt_file", str(tmp_path / "more.json"), "--exit_translators", str(tmp_path / "t.safetensors")]
    out = tmp_path / "out"
    passages = main([*flags, "--question", "Who?", "--gold", "a woman", "--compare", "--out", str(out)])
    assert [each.answer.prompt for each in passages] == ["It costs $5 <b>", "Ann", "Bob", "Who?", "Who?"]
    assert list(passages[0].readings) == list(WAYS)
    held = read_json(out / "lens.json")["passages"]
    assert [each["readings"]["raw"][0]["rank"] for each in held] == [each.readings["raw"][0].rank for each in passages]
    assert len(read_json(out / "prompt_lens.json")["values"]["readings"]) == 5
    assert (out / "prompt_lens.txt").read_text() in capsys.readouterr().out
    names = {"prompt_lens", *(f"lens_{name}" for name in QUANTITIES)}
    before = {name: (out / f"{name}.png").read_bytes() for name in names}
    assert {path.stem for path in redraw_all(out)} == names
    assert before == {name: (out / f"{name}.png").read_bytes() for name in names}


def test_an_encoder_and_decoder_is_read_as_well(tiny_t5_dir, tmp_path):
    flags = ["--model_name_or_path", str(tiny_t5_dir), "--question", "Who is Ann?", "--gold", "a woman"]
    gold, own = main([*flags, "--top_k", "2", "--tokens", "4", "--out", str(tmp_path)])
    tokenizer = AutoTokenizer.from_pretrained(tiny_t5_dir)
    assert gold.answer.ids == tokenizer(text_target="a woman")["input_ids"][:4]
    assert gold.answer.prompt_ids == tokenizer("Who is Ann?")["input_ids"]
    assert all(reading.rank[-1] == 1 for reading in own.readings["normed"])


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ([], "There is nothing to look at: give -p TEXT, --prompt_file FILE, or --question TEXT and --gold TEXT."),
        (["--tokens", "0", "-p", "a"], "--tokens 0: valid are 1 and above"),
        (["--top_k", "999999", "-p", "a"], "--top_k 999999: valid are 1 to 356"),
        (["--question", "Who?"], "--question goes with --gold: give the question and its right answer."),
        (["--question", " ", "--gold", "Ann"], "--question is empty: give a question."),
        (["--question", "Who? " * 40, "--gold", "Ann"], "the model has 128 positions: shorten the prompt"),
        (["--gold", "Ann"], "--gold goes with --question: give the question and its right answer."),
        (["--question", "Who?", "--gold", " "], "--gold ' ' has no token: give the right answer to the question."),
        (["-p", "a", "--compare", "--lens_final_norm", "False"], "drop --lens_final_norm False."),
        (["--prompt_file", "absent.txt"], "--prompt_file absent.txt: there is no such file."),
        (["--prompt_file", "EMPTY"], "is empty: it holds no record"),
        (["-p", "a", "--dtype", "int8"], "--dtype int8: valid are float32, bfloat16, float16."),
    ],
)
def test_what_cannot_be_looked_at_ends_with_code_2(flags, told, tiny_gpt2_dir, tmp_path, capsys):
    write_text(tmp_path / "empty.txt", "")
    flags = [str(tmp_path / "empty.txt") if each == "EMPTY" else each for each in flags]
    with pytest.raises(SystemExit) as stop:
        main([*flags, "--model_name_or_path", str(tiny_gpt2_dir), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and told in capsys.readouterr().err and not (tmp_path / "out").exists()
