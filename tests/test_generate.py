"""generate.py from its command line: what is printed, streamed and written, under policies and strategies."""

import json

import pytest
from transformers import AutoTokenizer, GenerationConfig

import generate
from jobs.generating import Continuation, Generator, shade
from models import DeployGPT2LMHeadModel
from support import plain_generate
from util import AdditionalArguments, DecoderArguments
from util.generate_args import GenerateArguments


def lines(text):
    return [line for line in text.splitlines() if line]


@pytest.fixture
def run(tiny_gpt2_dir, capsys):
    def call(*flags):
        found = generate.main(["--model_name_or_path", str(tiny_gpt2_dir), "--device", "cpu", *map(str, flags)])
        return found, capsys.readouterr()

    return call


def expected(folder, tokenizer, prompt, length):
    model = DeployGPT2LMHeadModel.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    sequences = plain_generate(model, **ids, max_new_tokens=length, do_sample=False)
    return sequences[0, ids["input_ids"].shape[1] :].tolist()


def test_a_prompt_is_continued_as_hugging_face_does_and_streamed(run, tiny_gpt2_dir, tiny_tokenizer, decided):
    (found,), shown = run("-p", "The tower is", "-l", 9)
    assert found.tokens == expected(tiny_gpt2_dir, tiny_tokenizer, "The tower is", 9)
    assert found.exit_layers == [4] * 9
    assert shown.out.strip() == ("The tower is" + found.text).strip()
    assert "the full model, 4 layers for every token" in shown.err


def test_a_policy_is_in_force_and_lossless_changes_nothing(run, decided):
    flags = ("--use_early_exit", "True", "--exit_conf_threshold", "0.2")
    (full,), _ = run("-p", "The tower is", "-l", 12)
    (early,), shown = run("-p", "The tower is", "-l", 12, *flags)
    (lossless,), _ = run("-p", "The tower is", "-l", 12, *flags, "--lossless", "True")
    assert min(early.exit_layers) < 4 and "softmax is above 0.2" in shown.err
    assert lossless.tokens == full.tokens != early.tokens


@pytest.mark.parametrize("strategy", ["sample", "beam", "contrastive", "acd", "dola", "dola_static"])
def test_every_strategy_runs(run, strategy):
    (found,), shown = run("-p", "Where are you?", "-l", 6, "--strategy", strategy)
    assert len(found.tokens) == 6 and "Where are you?" in shown.out
    assert (found.exit_layers is None) == (strategy != "sample")
    assert strategy == "sample" or strategy in shown.err


def test_sampling_is_repeatable(run):
    flags = ("-p", "Where", "-l", 8, "--strategy", "sample", "--temperature", "2.0", "--seed")
    texts = [run(*flags, seed)[0][0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_plain_continuation_stands_beside_the_contrastive_one(run, decided):
    (greedy,), _ = run("-p", "Where", "-l", 6)
    (found,), shown = run("-p", "Where", "-l", 6, "--strategy", "acd", "-i", 1, "-a", 0.0, "--compare")
    assert f"greedy: {greedy.text}" in shown.out and f"acd: {found.text}" in shown.out


def test_tokens_are_coloured_by_the_layer_they_left_after(run, monkeypatch):
    flags = ("-p", "The tower", "-l", 8, "--use_early_exit", "True", "--exit_conf_threshold", "0.2", "--show_exits")
    monkeypatch.delenv("NO_COLOR", raising=False)
    (found,), shown = run(*flags)
    used = {f"\033[38;5;{shade(layer, 4)}m" for layer in found.exit_layers}
    assert len(used) > 1 and all(code in shown.out for code in used)
    assert f"8 tokens, {sum(found.exit_layers) / 8:.2f} of 4 layers on average" in shown.out
    monkeypatch.setenv("NO_COLOR", "1")
    _, shown = run(*flags)
    assert "\033" not in shown.out and f"[{found.exit_layers[0]}]" in shown.out


def test_a_character_of_several_tokens_is_coloured_once_it_is_whole(run, tiny_gpt2_dir, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    model_args, args = DecoderArguments(model_name_or_path=str(tiny_gpt2_dir)), GenerateArguments(prompt="a")
    generator = Generator(model_args, args, AdditionalArguments())
    prompt, answer = (tokenizer(text)["input_ids"] for text in ("The ", "\U0001f642 tower"))
    found = Continuation("The ", "\U0001f642 tower", answer, [2] * (len(answer) - 1) + [4], prompt)
    shown = generator.coloured(found)
    assert "\ufffd" not in shown and "\U0001f642[2]" in shown and shown.endswith("[4]")


def test_a_file_is_continued_in_batches_and_written(run, tmp_path, decided):
    prompts = ["The tower of Dover is", "Ann:", "Where are you? The"]
    (tmp_path / "in.txt").write_text("\n\n".join(prompts) + "\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": each}) + "\n" for each in prompts))
    alone = [run("-p", each, "-l", 5)[0][0].tokens for each in prompts]
    for name in ("in.txt", "in.jsonl"):
        out = tmp_path / f"{name}.out"
        run("--prompt_file", tmp_path / name, "-l", 5, "--batch_size", 2, "--out", out)
        written = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["prompt"] for row in written] == prompts and [row["tokens"] for row in written] == alone
        assert written[0]["strategy"] == "greedy" and written[0]["exit_layers"] == [4] * 5


def test_an_encoder_decoder_reads_the_prompt_and_writes_its_answer(tiny_t5_dir, capsys):
    for strategy in ("greedy", "dola", "contrastive"):
        flags = ["--model_name_or_path", str(tiny_t5_dir), "-p", "Where?", "-l", "5", "--strategy", strategy]
        (found,) = generate.main([*flags, "--device", "cpu"])
        assert 1 <= len(found.tokens) <= 5


def test_stop_strings_end_an_answer_and_need_the_tokenizer(tiny_gpt2_dir):
    model, tokenizer = (
        DeployGPT2LMHeadModel.from_pretrained(tiny_gpt2_dir),
        AutoTokenizer.from_pretrained(tiny_gpt2_dir),
    )
    ids = tokenizer("The tower", return_tensors="pt")["input_ids"]
    whole = tokenizer.decode(model.generate(ids, max_new_tokens=9)[0, ids.shape[1] :])
    end = next(part for part in whole[2:] if part.isalnum())
    for held in ({"stop_strings": [end]}, {"generation_config": GenerationConfig(stop_strings=[end], pad_token_id=1)}):
        cut = model.generate(ids, max_new_tokens=9, tokenizer=tokenizer, **held)
        assert tokenizer.decode(cut[0, ids.shape[1] :]).count(end) == 1 and cut.shape[1] < ids.shape[1] + 9
    with pytest.raises(ValueError, match="need the tokenizer: give tokenizer="):
        model.generate(ids, stop_strings=[end])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-p", "a", "--strategy", "acd", "--static_exit_layer", "2"), "acd runs every layer: drop the flags"),
        (("-p", "a", "--strategy", "acd", "-i", "9"), "Layer 9 cannot be contrasted with layer 4"),
        (("-p", "a", "--static_exit_layer", "9"), "static_exit_layer is 9: valid are 1 to 4"),
        (("-p", "a", "-l", "500"), "the model has 128 positions"),
        (("-p", "a", "--alpa", "1"), "--alpa is no flag of this script; did you mean --alpha"),
        (("--prompt_file", "{empty}"), "empty: it holds no record"),
        (("--prompt_file", "{wrong}"), "record 1: expected an object with a text as its 'prompt'"),
        ((), "There is nothing to continue"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_code_2(run, tmp_path, capsys, flags, message):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.jsonl").write_text('{"text": "a"}\n')
    named = {"empty": tmp_path / "empty.txt", "wrong": tmp_path / "wrong.jsonl"}
    with pytest.raises(SystemExit) as stop:
        run(*(flag.format(**named) for flag in flags))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and message in shown and "Traceback" not in shown
