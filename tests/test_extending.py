"""What an extension costs: each is registered here, in a table, and nothing else of the code base is told of it. It is
run by the flags of a run script then, and looked for in what is printed, in the results, names of runs, and tables."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, SeedOssConfig, SeedOssForCausalLM

import generate
import run_question_answering
import run_summarization
from analysis import tradeoff
from decoding import naming
from decoding.confidence import CONFIDENCES, Measure
from decoding.policy import Policy
from decoding.pruning import VOCABULARIES, Pruning
from decoding.ranges import FROM_ZERO, SHARE
from decoding.settings import Setting
from decoding.thresholds import THRESHOLDS, Threshold
from losses.exits import LOSSES, Loss, loss_over_layers
from losses.layers import Layers, LayerStates
from models import DEPLOYED, DeployT5ForConditionalGeneration, deploy
from models.deploying import EarlyExitGeneration
from models.deploying_llama import LlamaAdapter
from models.modeling_causal import CausalMixin
from tasks import METRICS, TASKS, Metric, Task
from tasks.summarization import SUMMARIZATION
from util import (
    AdditionalArguments,
    QuestionAnsweringArguments,
    SummarizationArguments,
    parse_arguments,
    update_autoconfig,
)


# --------------------------------------------------------------------------------------------------- what is added
def margin(exit) -> torch.Tensor:
    """Top-1 minus top-2 logit, squashed to [0, 1)."""
    top2 = exit.logits.topk(2, dim=-1).values
    return torch.tanh(top2[:, 0] - top2[:, 1])


def by_share(settings, layer: int, confidence: float, vocab_share: float) -> int:
    """A share of the vocabulary that shrinks with every layer."""
    return int(settings.vocabulary * vocab_share**layer)


def low_ids(settings, given, low_share: float) -> list[torch.Tensor]:
    """The lowest ids of the vocabulary, and those of the prompt."""
    low = torch.arange(int(settings.vocabulary * low_share))
    return [torch.cat([low, prompt, torch.tensor(given.ends)]) for prompt in given.prompts]


def linear(level: float, position: int, length: int, exit_slope: float, exit_floor: float) -> float:
    """Falls by `exit_slope` over the longest answer, to `exit_floor` at least."""
    return max(exit_floor, level - exit_slope * position / length)


SHARE_FLAG = Setting("vocab_share", "Of --type_vocab_reduct share: what stays, per layer.", SHARE, default=0.5)
LOW = Setting("low_share", "Of --type_vocab_reduct low: what there is at every exit.", SHARE, default=0.25)
SLOPE = Setting("exit_slope", "Let the threshold fall by this much over the longest answer.", FROM_ZERO)
FLOOR = Setting("exit_floor", "Of --exit_slope: where it ends.", SHARE, default=0.05)

STEPS: list[tuple] = []


def distilled(layers, map_weight: float, map_norm: str) -> torch.Tensor:
    """Cross entropy of the last layer, and how far a linear map of the first layer's states is from the last's."""
    STEPS.append((layers.step, layers.steps))
    student = layers.modules["student_map"](layers.normed(1))
    distance = {"l1": functional.l1_loss, "l2": functional.mse_loss}[map_norm]
    assert layers.hidden(1).shape == student.shape and layers.config.d_model == student.shape[-1]
    return layers.cross_entropy(layers.count) + map_weight * distance(student, layers.normed(layers.count).detach())


DISTILLED = Loss(
    distilled,
    settings=(
        Setting("map_weight", "Of the distance.", FROM_ZERO, default=1.0),
        Setting("map_norm", "Of the distance.", ("l1", "l2"), default="l2"),
    ),
    modules=lambda config: {"student_map": nn.Linear(config.d_model, config.d_model)},
)


def words(predictions, references) -> dict:
    """Mean number of words."""
    return {"words": sum(len(text.split()) for text in predictions) / len(predictions)}


def word_count(prediction, references) -> dict:
    return words([prediction], [references])


# ------------------------------------------------------------------------------------------------------- how it is run
SHORT = ["--max_seq_length", "96", "--doc_stride", "16", "--max_answer_length", "8", "--use_cpu", "True"]


@pytest.fixture
def evaluate(tiny_t5_dir, squad_file, tmp_path, caplog):
    """(results, name of the run's folder, the sentence on its policy, the table) of an evaluation under flags."""

    def call(*flags):
        shared = [
            "--model_name_or_path",
            tiny_t5_dir,
            "--validation_file",
            squad_file,
            "--output_dir",
            tmp_path / "out",
        ]
        shared += [*SHORT, "--do_eval", "--max_eval_samples", "6"]
        arguments = [parse_arguments(QuestionAnsweringArguments, [*map(str, shared), *more]) for more in ([], flags)]
        run_question_answering.main(*arguments[0])  # at full depth, to which the table refers
        full = set((tmp_path / "out" / "runs").iterdir())
        caplog.clear()
        with caplog.at_level("INFO", "jobs"):
            _, metrics = run_question_answering.main(*arguments[1])
        (folder,) = set((tmp_path / "out" / "runs").iterdir()) - full
        held = json.loads((folder / "all_results.json").read_text())
        assert held["eval_policy"] == metrics["eval_policy"]
        return metrics, folder.name, caplog.text, tradeoff.report(tmp_path / "out", tmp_path / "drawn")

    return call


def refused(capsys, data_class, *flags) -> str:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(data_class, ["--do_eval", "--validation_file", __file__, *flags])
    assert ended.value.code == 2
    return capsys.readouterr().err


def depths(metrics: dict) -> list[int]:
    return [int(layer) for layer, count in metrics["eval_exit_histogram"].items() if count]


EXITS = ["--use_early_exit", "True", "--exit_conf_threshold", "0.1"]


# ------------------------------------------------------------------------------------------------------------ measures
def test_a_measure(evaluate, monkeypatch):
    monkeypatch.setitem(CONFIDENCES, "margin", Measure(margin, lambda tried: 3 * tried.rows, label="lead"))
    metrics, folder, said, table = evaluate(*EXITS, "--exit_conf_type", "margin")
    assert metrics["eval_policy"]["confidence"] == "margin" and len(depths(metrics)) > 1
    assert metrics["eval_flops_confidence_elementwise_per_sample"] > 0
    assert folder.startswith("squad-validation-margin-0.1-min1-")
    assert "whose margin is above 0.1." in said
    assert "lead > 0.1 " in table


def test_a_measure_without_a_count_of_its_flops_is_an_error():
    with pytest.raises(TypeError, match="elementwise"):
        Measure(margin)


@pytest.mark.parametrize("count", [lambda tried: tried.vocabulary, lambda tried: None, 7])
def test_a_count_of_flops_that_is_none_is_told_before_anything_is_decoded(count):
    with pytest.raises(ValueError, match="valid is a number of FLOPs, from the width, layer, rows, members of an exit"):
        Measure(margin, count)


# ------------------------------------------------------------------------------------------------------------- pruning
def test_a_pruning_with_a_setting_of_its_own(evaluate, tiny_tokenizer, monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "share", Pruning(by_share, settings=(SHARE_FLAG,)))
    flags = [*EXITS, "--type_vocab_reduct", "share"]
    metrics, folder, said, table = evaluate(*flags, "--exit_conf_threshold", "0.9", "--vocab_share", "0.3")
    counts = metrics["eval_exit_counts"]
    kept = [int(len(tiny_tokenizer) * 0.3**layer) for layer in (2, 3)]
    assert counts["kept_later"] / counts["later"] == sum(kept) / 2
    assert metrics["eval_policy"]["vocabulary"] == "share" and metrics["eval_policy"]["extra"] == {"vocab_share": 0.3}
    assert "-softmax-0.9-share0.3-min1-" in folder
    assert "share pruning of the vocabulary (vocab_share 0.3)" in said
    assert "softmax + share, vocab_share 0.3 > 0.9" in table


@pytest.mark.parametrize("one_exit", [False, True])
def test_a_pruning_that_says_what_survives_at_the_first_exit(evaluate, tiny_tokenizer, monkeypatch, one_exit):
    monkeypatch.setitem(VOCABULARIES, "low", Pruning(first=low_ids, settings=(LOW,)))
    exits = ["--use_shallow_deep", "True", "--shallow_exit_layer", "2", "--shallow2deep_conf_threshold", "0.9"]
    flags = exits if one_exit else [*EXITS, "--exit_conf_threshold", "0.9"]
    metrics, folder, said, _ = evaluate(*flags, "--type_vocab_reduct", "low", "--low_share", "0.1")
    counts, size = metrics["eval_exit_counts"], len(tiny_tokenizer)
    assert 0.1 * size - 1 < counts["rows_first"] / counts["first"] < size / 2
    assert one_exit or counts["rows_later"] / counts["later"] < size / 2
    assert metrics["eval_policy"]["extra"] == {"low_share": 0.1}
    assert "-low0.1-" in folder and "low pruning of the vocabulary (low_share 0.1)" in said
    assert "have no effect" not in said


def test_what_is_not_given_has_its_default_and_says_so(evaluate, monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "share", Pruning(by_share, settings=(SHARE_FLAG,)))
    metrics, folder, _, _ = evaluate(*EXITS, "--type_vocab_reduct", "share")
    assert metrics["eval_policy"]["extra"] == {"vocab_share": 0.5} and "-share0.5-" in folder


def test_an_own_setting_has_its_range_and_is_told_where_it_has_no_effect(monkeypatch, capsys, caplog):
    monkeypatch.setitem(VOCABULARIES, "share", Pruning(by_share, settings=(SHARE_FLAG,)))
    said = refused(capsys, QuestionAnsweringArguments, "--vocab_share", "2")
    assert "argument --vocab_share: invalid value '2': valid are 0 to 1." in said
    with pytest.raises(ValueError, match="--vocab_share 2: valid are 0 to 1"):
        AdditionalArguments(extra={"vocab_share": 2})
    with pytest.raises(ValueError, match=r"extra holds nonsense: valid are .*vocab_share"):
        AdditionalArguments(extra={"nonsense": 2})
    with pytest.raises(ValueError, match="vocab_share is 2: valid are 0 to 1"):
        Policy(confidence="softmax", vocabulary="share", extra={"vocab_share": 2})
    flags = AdditionalArguments(use_early_exit=True, exit_conf_threshold=0.5, extra={"vocab_share": 0.3})
    update_autoconfig(DeployT5ForConditionalGeneration.config_class(), flags)
    assert "these have no effect: --vocab_share." in caplog.text


def test_a_config_carries_own_settings(tiny_t5_dir, monkeypatch):
    monkeypatch.setitem(VOCABULARIES, "share", Pruning(by_share, settings=(SHARE_FLAG,)))
    given = {"confidence": "softmax", "threshold": 0.9, "vocabulary": "share", "extra": {"vocab_share": 0.3}}
    config = DeployT5ForConditionalGeneration.config_class.from_pretrained(tiny_t5_dir)
    flags = {"use_early_exit": True, "exit_conf_threshold": 0.9, "type_vocab_reduct": "share"}
    config = update_autoconfig(config, AdditionalArguments(**flags, extra={"vocab_share": 0.3}))
    assert Policy.from_config(config) == Policy(**given)
    model = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir, config=config)
    ids = torch.tensor([[5, 6, 7, 1]])
    _, carried = model.generate(ids, max_new_tokens=6, return_trace=True)
    _, handed = model.generate(ids, max_new_tokens=6, return_trace=True, policy=Policy(**given))
    _, whole = model.generate(ids, max_new_tokens=6, return_trace=True, policy=Policy())
    assert carried.kept.tolist() == handed.kept.tolist() != whole.kept.tolist()


# ---------------------------------------------------------------------------------------------------------- thresholds
def test_a_kind_of_threshold(evaluate, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "linear", Threshold(linear, settings=(SLOPE, FLOOR)))
    metrics, folder, said, table = evaluate(*EXITS, "--exit_slope", "0.6")
    assert metrics["eval_policy"]["extra"] == {"exit_slope": 0.6, "exit_floor": 0.05} and len(depths(metrics)) > 1
    assert "-softmax-0.1-linear0.6-0.05-min1-" in folder
    assert "above 0.1, linear threshold (exit_slope 0.6, exit_floor 0.05)." in said
    assert "softmax, exit_slope 0.6, exit_floor 0.05 > 0.1" in table


def test_a_kind_of_threshold_reaches_every_position(tiny_t5_dir, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "linear", Threshold(linear, settings=(SLOPE, FLOOR)))
    policy = Policy(confidence="softmax", threshold=0.9, length=10, extra={"exit_slope": 1.0})
    model = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir)
    _, trace = model.generate(torch.tensor([[5, 6, 7, 1]]), max_new_tokens=10, policy=policy, return_trace=True)
    length = int(trace.lengths[0])
    assert trace.threshold[0, :length] == pytest.approx([max(0.05, 0.9 - t / 10) for t in range(1, length + 1)])
    assert length > 5


def test_one_kind_of_threshold_at_a_time(monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "linear", Threshold(linear, settings=(SLOPE, FLOOR)))
    with pytest.raises(ValueError, match="exit_position_temp and exit_slope exclude each other: decaying or linear"):
        Policy(confidence="softmax", temperature=4.0, extra={"exit_slope": 1.0})


def test_a_threshold_says_itself_what_it_is_called(monkeypatch):
    named = {"name": "{threshold:g}-down{exit_slope:g}", "words": "{threshold:g} minus {exit_slope:g} of the way"}
    monkeypatch.setitem(THRESHOLDS, "linear", Threshold(linear, settings=(SLOPE, FLOOR), **named))
    policy = Policy(confidence="softmax", threshold=0.9, extra={"exit_slope": 1.0})
    assert policy.name == "softmax-0.9-down1-min1"
    assert policy.explain(4).endswith("is above 0.9 minus 1 of the way")


def test_generate_and_help_know_it(tiny_gpt2_dir, monkeypatch, capsys):
    monkeypatch.setitem(THRESHOLDS, "linear", Threshold(linear, settings=(SLOPE, FLOOR)))
    flags = ["--model_name_or_path", str(tiny_gpt2_dir), "--device", "cpu", "-p", "The tower", "-l", "4"]
    generate.main([*flags, *EXITS, "--exit_slope", "0.6"])
    assert "linear threshold (exit_slope 0.6, exit_floor 0.05)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        generate.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--exit_slope VALUE Let the threshold fall by this much over the longest answer." in shown


def test_runs_of_elsewhere_are_named_without_their_rows():
    described = {"method": "early_exit", "confidence": "margin", "vocabulary": "share", "threshold": 0.5}
    described |= {"temperature": None, "first_exit": 1, "extra": {"vocab_share": 0.3}}
    assert naming.label(described) == "margin + share, vocab_share 0.3 > 0.5"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((SLOPE,), None),
        ((SLOPE, Setting("exit_flor", "", SHARE, default=0.1)), "linear takes no argument exit_flor"),
        ((SLOPE, Setting("exit_floor", "", SHARE)), "The setting exit_floor of linear has no default"),
    ],
)
def test_settings_that_do_not_fit_their_function_are_told_when_they_are_given(settings, said):
    if said is None:
        with pytest.raises(ValueError, match="linear needs exit_floor, which is no setting of its row"):
            Threshold(linear, settings=settings)
        return
    with pytest.raises(ValueError, match=said):
        Threshold(linear, settings=settings)


def test_a_setting_has_a_name_of_its_own_that_can_be_an_arguments(monkeypatch):
    with pytest.raises(ValueError, match="A setting is called 'exit-slope': valid are names of arguments"):
        Setting("exit-slope", "", SHARE)
    monkeypatch.setitem(
        THRESHOLDS, "k", Threshold(lambda level, position, length, k: level, (), (Setting("k", "", SHARE),))
    )
    with pytest.raises(ValueError, match="a setting called k, which is a flag already"):
        AdditionalArguments()


@pytest.mark.parametrize("value", [None, float("nan"), "0.5"])
def test_a_threshold_that_is_no_number_is_refused(value, monkeypatch):
    monkeypatch.setitem(
        THRESHOLDS, "odd", Threshold(lambda level, position, length, odd: value, (), (Setting("odd", "", SHARE),))
    )
    policy = Policy(confidence="softmax", threshold=0.5, extra={"odd": 0.5})
    with pytest.raises(ValueError, match=r"The threshold 'odd' returned .*: valid are numbers"):
        policy.threshold_at(1, 10)


# -------------------------------------------------------------------------------------------------------------- losses
@pytest.mark.parametrize(("layer", "said"), [(0, "layer 0: valid are 1 to 4"), (5, "layer 5: valid are 1 to 4")])
def test_layers_of_a_loss_count_from_one(layer, said, monkeypatch):
    monkeypatch.setitem(LOSSES, "other", Loss(lambda layers: layers.cross_entropy(layer)))
    with pytest.raises(ValueError, match=said):
        loss_over_layers("other", some_layers())


@pytest.mark.parametrize(("value", "said"), [(torch.ones(2), r"a tensor of shape \[2\]"), (1.0, "1.0"), (None, "None")])
def test_a_loss_that_is_no_scalar_is_refused(value, said, monkeypatch):
    monkeypatch.setitem(LOSSES, "other", Loss(lambda layers: value))
    with pytest.raises(ValueError, match=f"The loss 'other' returned {said}: valid is a scalar"):
        loss_over_layers("other", some_layers())


def some_layers() -> Layers:
    states = [torch.ones(2, 3, 5) for _ in range(4)]
    return Layers(LayerStates(states[:-1], states), torch.ones(2, 3, dtype=torch.long), nn.Linear(5, 7))


def test_a_loss_with_settings_and_a_module_of_its_own(tiny_t5_dir, squad_file, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "distilled", DISTILLED)
    STEPS.clear()
    flags = ["--model_name_or_path", tiny_t5_dir, "--train_file", squad_file, "--output_dir", tmp_path / "out", *SHORT]
    flags += ["--do_train", "--max_steps", "3", "--per_device_train_batch_size", "2", "--save_strategy", "no"]
    flags += ["--intermediate_loss_fn", "distilled", "--map_weight", "0.5", "--map_norm", "L1"]
    trainer, metrics = run_question_answering.main(*parse_arguments(QuestionAnsweringArguments, list(map(str, flags))))
    assert STEPS == [(0, 3), (1, 3), (2, 3)] and metrics["train_loss"] > 0
    assert trainer.model.config.map_weight == 0.5 and trainer.model.config.map_norm == "l1"
    held = json.loads((tmp_path / "out" / "training_settings.json").read_text())
    assert (held["intermediate_loss_fn"], held["map_weight"], held["map_norm"]) == ("distilled", 0.5, "l1")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    torch.testing.assert_close(saved["student_map.weight"], trainer.model.student_map.weight.detach())
    assert "map_weight" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_module_of_a_loss_is_trained_and_goes_on_where_it_was(tiny_t5_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(LOSSES, "distilled", DISTILLED)
    config = DeployT5ForConditionalGeneration.config_class.from_pretrained(tiny_t5_dir)
    config.intermediate_loss_fn = "distilled"
    model = DeployT5ForConditionalGeneration.from_pretrained(tiny_t5_dir, config=config).train()
    model(input_ids=torch.tensor([[5, 6, 1]]), labels=torch.tensor([[7, 8, 1]])).loss.backward()
    assert model.student_map.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    again = DeployT5ForConditionalGeneration.from_pretrained(tmp_path, config=config)
    torch.testing.assert_close(again.student_map.weight, model.student_map.weight)


def test_settings_of_a_loss_are_refused_like_any_flag(monkeypatch, capsys, caplog):
    monkeypatch.setitem(LOSSES, "distilled", DISTILLED)
    said = refused(capsys, QuestionAnsweringArguments, "--map_norm", "l3")
    assert "argument --map_norm: invalid value 'l3': valid are l1, l2." in said
    update_autoconfig(DeployT5ForConditionalGeneration.config_class(), AdditionalArguments(extra={"map_norm": "l1"}))
    assert "these have no effect: --map_norm." in caplog.text


# --------------------------------------------------------------------------------------------------- tasks and metrics
def test_a_task_with_a_metric_of_its_own(tiny_t5_dir, tmp_path, monkeypatch):
    def made(split: str, count: int) -> list[dict]:
        return [{"id": str(i), "note": f"The tower of Elm has {i} doors.", "gist": f"{i} doors"} for i in range(count)]

    monkeypatch.setitem(METRICS, "words", Metric(words, "words", word_count, label="words"))
    columns = {"text": "note", "summary": "gist"}
    task = Task("notes", SUMMARIZATION, "words", columns, generator=made, sizes={"validation": 5})
    monkeypatch.setitem(TASKS, "notes", task)
    flags = ["--model_name_or_path", tiny_t5_dir, "--dataset_name", "notes", "--output_dir", tmp_path / "out"]
    flags += ["--do_eval", "--use_cpu", "True", "--max_target_length", "8"]
    for more in ([], EXITS):
        arguments = parse_arguments(SummarizationArguments, [*map(str, flags), *more])
        _, metrics = run_summarization.main(*arguments)
    texts = [json.loads(line) for path in tmp_path.glob("out/runs/*/predictions.jsonl") for line in path.open()]
    assert metrics["eval_words"] > 0 and metrics["eval_samples"] == 5
    assert all(row["words"] == len(row["prediction"].split()) for row in texts)
    table = tradeoff.report(tmp_path / "out", tmp_path / "drawn")
    assert "    words  exit layer" in table and "softmax > 0.1" in table


# ------------------------------------------------------------------------------------------------------- architectures
class DeploySeedOssForCausalLM(EarlyExitGeneration, CausalMixin, SeedOssForCausalLM):
    """Seed-OSS: the layers of a Llama."""

    adapter_class = LlamaAdapter
    final_norm = "model.norm"


@pytest.fixture
def seed_oss_dir(tiny_gpt2_dir, tmp_path):
    """A checkpoint as the library saves it, with a tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_gpt2_dir)
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4, "head_dim": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    model = SeedOssForCausalLM(SeedOssConfig(**sizes, **heads, eos_token_id=None, pad_token_id=tokenizer.pad_token_id))
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_an_architecture(seed_oss_dir, monkeypatch, capsys):
    flags = ["--model_name_or_path", str(seed_oss_dir), "--device", "cpu", "-p", "The tower", "-l", "6"]
    with pytest.raises(SystemExit):
        generate.main(flags)
    assert "model_type is 'seed_oss'" in capsys.readouterr().err
    monkeypatch.setitem(DEPLOYED, "seed_oss", DeploySeedOssForCausalLM)
    generate.main([*flags, *EXITS])
    assert "a token leaves after the first of layers 1 to 3 of 4" in capsys.readouterr().err


@torch.no_grad()
def test_an_architecture_from_elsewhere_obeys_the_laws_and_trains(seed_oss_dir, monkeypatch):
    monkeypatch.setitem(DEPLOYED, "seed_oss", DeploySeedOssForCausalLM)
    library = SeedOssForCausalLM.from_pretrained(seed_oss_dir)
    ids, sizes = torch.arange(5, 15).view(2, 5), {"max_new_tokens": 6, "do_sample": False}
    expected = library.double().generate(ids, **sizes)
    model = deploy(library)
    drafted = Policy(confidence="softmax", threshold=0.0, skipped="recompute", verification="exact")
    for policy in (Policy(), Policy(confidence="softmax", threshold=1.0), drafted):
        assert model.generate(ids, policy=policy, **sizes).tolist() == expected.tolist()
    model.config.intermediate_loss_fn = "ce"
    assert model.train()(input_ids=ids, labels=ids).loss > 0
    monkeypatch.setitem(LOSSES, "distilled", DISTILLED)
    model.config.intermediate_loss_fn, model.config.d_model = "distilled", 24
    with pytest.raises(ValueError, match=r"'distilled' trains modules of its own.*SeedOssForCausalLM.from_pretrained"):
        model(input_ids=ids, labels=ids)
