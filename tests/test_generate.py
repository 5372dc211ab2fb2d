"""generate.py from its command line: what is printed, streamed and written, under policies and strategies."""

import json

import pytest
from transformers import AutoTokenizer, GenerationConfig

import generate
from jobs.generating import Generator
from jobs.telling import Continuation, shade
from models import DeployGPT2LMHeadModel
from scripts import count_tokens
from support import plain_generate
from util import AdditionalArguments, DecoderArguments
from util.files import locked
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


def test_a_lossless_run_says_what_was_drafted_and_what_ran(run, tmp_path):
    flags = (
        "-p",
        "The tower is",
        "-l",
        12,
        "--use_shallow_deep",
        "True",
        "--shallow_exit_layer",
        2,
        "--lossless",
        "True",
    )
    (found,), shown = run(*flags, "--out", tmp_path / "out.jsonl")
    mean = sum(found.exit_layers) / 12
    assert f"emitted after {mean:.2f} of 4 layers on average, {found.passes / 12:.2f} layers run per token" in shown.err
    assert f"{found.accepted / found.drafted:.0%} of {found.drafted} drafted tokens accepted" in shown.err
    (line,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (line["layers_run"], line["drafted"], line["accepted"]) == (found.passes, found.drafted, found.accepted)
    assert found.passes >= 4 * 12 - 4 and found.drafted > 0


LOSSLESS = ("--use_shallow_deep", "True", "--shallow_exit_layer", 1, "--lossless", "True")


def test_it_is_said_where_drafts_did_not_pay(run, tmp_path):
    flags = ("-p", "The tower is", "-l", 24, *LOSSLESS)
    (found,), shown = run(*flags, "--out", tmp_path / "out.jsonl")
    assert (
        found.undrafted and f"; {found.undrafted / 24:.0%} of the tokens not drafted, since drafts did not" in shown.err
    )
    assert "drafting stops where it does not pay" in shown.err
    (again,), recalled = run(*flags, "--out", tmp_path / "out.jsonl")
    depth = shown.err.partition(" tokens/s; ")[2].splitlines()[0]
    assert again.undrafted == found.undrafted and recalled.err.splitlines()[-1] == depth
    (always,), shown = run(*flags, "--draft_always", "True")
    assert always.tokens == found.tokens and not always.undrafted and always.drafted > found.drafted
    assert "not drafted" not in shown.err and "drafting stops" not in shown.err


def test_drafts_on_frequent_tokens(run, tiny_gpt2_dir, tmp_path):
    texts, counts = tmp_path / "texts.txt", tmp_path / "counts.json"
    texts.write_text("The tower of Elm is old.\nThe river is wide.\n")
    count_tokens.main([str(texts), "--model_name_or_path", str(tiny_gpt2_dir), "--out", str(counts)])
    frequent = ("--type_vocab_reduct", "frequent", "--frequent_tokens", counts, "--k", 9)
    (found,), shown = run("-p", "The tower is", "-l", 12, *LOSSLESS, *frequent)
    (full,), _ = run("-p", "The tower is", "-l", 12)
    assert found.tokens == full.tokens and "frequent pruning of the vocabulary (frequent_tokens counts-" in shown.err
    assert "no effect" not in shown.err


@pytest.mark.parametrize("divergence", ["paper", "code"])
def test_dolas_layers_are_written_with_the_tokens(run, tmp_path, divergence):
    flags = ("-p", "The tower is", "-l", 12, "--strategy", "dola", "--early_exit_layers", "0,1,2,3,4")
    (found,), _ = run(*flags, "--dola_divergence", divergence, "--out", tmp_path / "out.jsonl")
    (line,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert line["premature_layers"] == found.premature_layers and len(found.premature_layers) == 12
    assert set(found.premature_layers) <= {0, 1, 2, 3} and "exit_layers" not in line


def test_sampling_is_repeatable(run):
    flags = ("-p", "Where", "-l", 8, "--strategy", "sample", "--temperature", "2.0", "--seed")
    texts = [run(*flags, seed)[0][0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_the_plain_continuation_stands_beside_the_contrastive_one(run, decided):
    (greedy,), _ = run("-p", "Where", "-l", 6)
    (found,), shown = run("-p", "Where", "-l", 6, "--strategy", "acd", "-i", 1, "-a", 0.0, "--compare")
    assert f"greedy: {greedy.text}" in shown.out and f"acd: {found.text}" in shown.out


def test_early_exit_stands_beside_full_depth(run, decided):
    flags = ("-p", "The tower is", "-l", 8, *LOSSLESS, "--compare")
    (found,), shown = run(*flags)
    (plain,), _ = run("-p", "The tower is", "-l", 8)
    assert f"  full depth: {plain.text}\n  early exit: {found.text}\n" in shown.out
    assert "full depth: 8 tokens in" in shown.err and "times as fast; the same tokens" in shown.err


def test_what_an_answer_took_is_told(run):
    (found,), shown = run("-p", "The tower is", "-l", 6)
    last = shown.err.splitlines()[-1]
    assert last.startswith("6 tokens in ") and last.endswith(" tokens/s; 4.00 of 4 layers on average")
    assert found.seconds > 0
    _, shown = run("-p", "The tower", "Where", "-l", 6)
    assert shown.err.splitlines()[-1].startswith("12 tokens in ")


@pytest.mark.parametrize("way", [(), LOSSLESS, ("--strategy", "acd")])
def test_texts_and_tokens_end_an_answer(run, way, tiny_gpt2_dir):
    (whole,), _ = run("-p", "The tower is", "-l", 12, *way)
    end = next(part for part in whole.text[2:] if part.isalnum())
    (cut,), shown = run("-p", "The tower is", "-l", 12, *way, "--stop", end, "nowhere")
    assert cut.text == whole.text[: whole.text.index(end)] and cut.tokens == whole.tokens[: len(cut.tokens)]
    assert len(cut.tokens) < 12 and lines(shown.out) == lines("The tower is" + cut.text)
    token = whole.tokens[5]
    (cut,), _ = run("-p", "The tower is", "-l", 12, *way, "--stop_token_ids", token)
    assert cut.tokens == whole.tokens[: whole.tokens.index(token) + 1]
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    assert "The tower is" + cut.text == tokenizer.decode([*cut.prompt_tokens, *cut.tokens[:-1]]).lstrip()


def test_rows_of_a_batch_end_by_themselves(run, prompt_file):
    prompts = [line for line in prompt_file.read_text().splitlines() if line]
    for way in ((), ("--strategy", "acd")):
        alone = [run("-p", each, "-l", 9, "--stop", "e", *way)[0][0].tokens for each in prompts]
        found, _ = run("--prompt_file", prompt_file, "-l", 9, "--stop", "e", *way)
        assert [each.tokens for each in found] == alone


def test_no_pair_of_tokens_comes_twice(run):
    (found,), _ = run("-p", "The", "-l", 40, "--no_repeat_ngram_size", 2)
    pairs = list(zip(found.tokens, found.tokens[1:], strict=False))
    assert len(pairs) == len(set(pairs))


def test_drawn_tokens_of_dola_repeat_by_the_seed(run):
    flags = ("-p", "Where", "-l", 12, "--strategy", "dola", "--do_sample", "--temperature", "3.0", "-a", "0.001")
    texts = [run(*flags, "--seed", seed)[0][0].tokens for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("layers", ["4", "-1"])
def test_dola_of_one_layer_is_plain(run, layers, decided):
    (greedy,), _ = run("-p", "The tower is", "-l", 8)
    for name in ("dola", "dola_static"):
        (found,), shown = run("-p", "The tower is", "-l", 8, "--strategy", name, "--early_exit_layers", layers)
        assert found.tokens == greedy.tokens and "contrasted" not in shown.err


def test_layers_that_dola_chose_are_counted(run):
    (found,), shown = run("-p", "The tower is", "-l", 12, "--strategy", "dola", "--early_exit_layers", "0,1,2,3,4")
    told = shown.err.splitlines()[-1].partition("contrasted with layer ")[2]
    counts = {int(part.split()[0]): int(part.split("(")[1].split()[0]) for part in told.split(", ")}
    assert counts == {layer: found.premature_layers.count(layer) for layer in set(found.premature_layers)}


def test_dolas_repetition_penalty_is_its_authors(run):
    flags = ("-p", "The tower is", "-l", 12, "--strategy", "dola", "--repetition_penalty")
    (found,), _ = run(*flags[:-1])
    assert found.tokens == run(*flags, "1.2")[0][0].tokens


def test_tokens_are_coloured_by_the_layer_they_left_after(run, monkeypatch):
    flags = ("-p", "The tower", "-l", 8, "--use_early_exit", "True", "--exit_conf_threshold", "0.2", "--show_exits")
    with monkeypatch.context() as patched:
        patched.setattr("jobs.telling.shows_colours", lambda: True)
        (found,), shown = run(*flags)
    used = {f"\033[38;5;{shade(layer, 4)}m" for layer in found.exit_layers}
    assert len(used) > 1 and all(code in shown.out for code in used)
    assert f"8 tokens, {sum(found.exit_layers) / 8:.2f} of 4 layers on average" in shown.out
    _, shown = run(*flags)  # into a pipe
    assert "\033" not in shown.out and f"[{found.exit_layers[0]}]" in shown.out


def test_a_character_of_several_tokens_is_coloured_once_it_is_whole(run, tiny_gpt2_dir):
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


FREE = ("--use_shallow_deep", "True", "--shallow_exit_layer", 2, "--shallow2deep_conf_threshold", "0.3")


@pytest.fixture
def prompt_file(tmp_path):
    """Five prompts: two batches of two, and one."""
    path = tmp_path / "in.txt"
    path.write_text("The tower of Dover is\nAnn:\nWhere are you? The\nIn Elm\nIt rains\n")
    return path


@pytest.mark.parametrize(
    "more",
    [
        ("--batch_size", 2),
        ("--batch_size", 1, "--strategy", "acd"),
        ("--batch_size", 2, "--strategy", "sample", "--temperature", "2.0"),
        ("--batch_size", 2, *FREE, "--use_adapt_threshold", "True"),
    ],
)
def test_a_file_cut_anywhere_is_gone_on_with_and_ends_the_same(run, prompt_file, tmp_path, more):
    out, flags = tmp_path / "out.jsonl", ("--prompt_file", prompt_file, "-l", 12, *more, "--out")
    found, _ = run(*flags, out)
    whole = out.read_bytes()
    assert len(found) == 5 == whole.count(b"\n")
    ends = [0, *(place + 1 for place, byte in enumerate(whole) if byte == 10)]
    for size in {1, 12, *ends, ends[1] - 1, ends[2] + 9, ends[3] + 40, len(whole) - 1}:
        out.write_bytes(whole[:size])
        again, shown = run(*flags, out)
        assert out.read_bytes() == whole and again == found, size
        kept = sum(end <= size for end in ends[1:])
        kept = kept if kept == 5 else kept - kept % more[1]
        assert (f"{kept} of 5 continuations were in {out} already" in shown.err) == (kept > 0)


def test_prompts_that_are_added_to_a_file_are_continued_too(run, prompt_file, tmp_path):
    flags = ("--prompt_file", prompt_file, "-l", 5, "--batch_size", 2, "--strategy", "sample", "--out")
    run(*flags, tmp_path / "grown")
    prompt_file.write_text(prompt_file.read_text() + "Bob:\nAnn: Where\n")
    run(*flags, tmp_path / "grown")
    run(*flags, tmp_path / "whole")
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()


def test_prompts_of_the_command_line_are_shown_again(run, tmp_path):
    flags = ("-p", "The tower", "Where", "-l", 5, "--out", tmp_path / "out")
    first, shown = run(*flags)
    second, again = run(*flags)
    assert first == second and shown.out.split() == again.out.split()


@pytest.mark.parametrize(
    "more",
    [("-l", 4), ("--static_exit_layer", 2), ("--strategy", "acd"), ("--strategy", "sample"), ("--dtype", "bfloat16")],
)
def test_lines_of_another_command_are_not_added_to(run, prompt_file, tmp_path, capsys, more):
    out = tmp_path / "out"
    run("--prompt_file", prompt_file, "-l", 5, "--out", out)
    before = out.read_bytes()
    with pytest.raises(SystemExit) as stop:
        run("--prompt_file", prompt_file, "-l", 5, *more, "--out", out)
    assert stop.value.code == 2 and "line 1 is not of this command" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mine", "does not end in a line of this script"),
        ("{}\n", "line 1 is not of this command"),
        ("mine\n", "out, line 1: not valid JSON"),
        ("[1]\n", "out, line 1: expected a JSON object"),
    ],
)
def test_a_file_of_other_things_is_left_alone(run, prompt_file, tmp_path, capsys, text, told):
    (tmp_path / "out").write_text(text)
    with pytest.raises(SystemExit) as stop:
        run("--prompt_file", prompt_file, "-l", 5, "--out", tmp_path / "out")
    assert stop.value.code == 2 and told in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == text


def test_a_file_that_is_being_written_is_left_alone(run, prompt_file, tmp_path, capsys):
    held = locked(tmp_path / "out")
    with pytest.raises(SystemExit) as stop:
        run("--prompt_file", prompt_file, "-l", 5, "--out", tmp_path / "out")
    assert stop.value.code == 2 and "Another process is writing" in capsys.readouterr().err
    held.close()


def test_sampled_batches_have_streams_of_their_own(run, tmp_path):
    (tmp_path / "in.txt").write_text("Where\nWhere\n")
    flags = ("--prompt_file", tmp_path / "in.txt", "-l", 12, "--batch_size", 1, "--strategy", "sample")
    (first, second), _ = run(*flags, "--temperature", "2.0")
    assert first.tokens != second.tokens


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
        (("-p", "a", "--strategy", "dola", "--dola_divergence", "kl"), "--dola_divergence kl: valid are paper, code"),
        ((), "There is nothing to continue: give -p TEXT or --prompt_file FILE, or be asked in a terminal."),
        (("-p", "a", "--compare"), "--compare shows greedy decoding at full depth beside another way: give --strategy"),
        (("-p", "a", "--show_drafts"), "--show_drafts shows tokens that are yet to be verified: give --lossless"),
        (("-p", "a", "--stop_token_ids", "5", "99999"), "--stop_token_ids 99999: valid are 0 to"),
        (("-p", "a", "--apply_chat_template"), "has no chat template; leave it out"),
        (("-p", "a", "--strategy", "contrastive", "--do_sample"), "contrastive has 5 beams: give --beam_size 1"),
        (("-p", "a", "--out", "{folder}"), "it is a folder, not a file"),
        (("-p", "a", "--out", "{empty}/out"), "empty.txt is a file, not a folder"),
        (("-p", "a", "--out", "/proc/out/lines"), "--out /proc/out cannot be written: /proc"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_code_2(run, tmp_path, capsys, flags, message):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.jsonl").write_text('{"text": "a"}\n')
    named = {"folder": tmp_path, "empty": tmp_path / "empty.txt", "wrong": tmp_path / "wrong.jsonl"}
    with pytest.raises(SystemExit) as stop:
        run(*(flag.format(**named) for flag in flags))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and message in shown and "Traceback" not in shown
