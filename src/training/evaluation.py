"""Evaluation and prediction: decode every input of a split, choose an answer per example, score, count.

The inputs are cut into batches the same way however many processes there are and however often the run was started;
a process decodes every n-th batch. So one process and several, a whole run and a continued one, compute the same.
"""

import interrupts

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from decoding.policy import Policy
from decoding.sequences import Streamer
from decoding.stops import stopping
from decoding.thresholds import AdaptiveThreshold
from tasks import METRICS, Feature, Task, best_window, generated_length, is_scored, score, score_example
from tasks.forms import Reading
from training.exit_scores import exit_score_metrics, perplexities
from training.leaving import told
from training.processes import by_main, from_all, process_count, process_index
from training.records import Decoded, costs, exit_cost, exit_metrics, token_texts, trace_row
from training.reporting import environment, progress
from training.views import Lens, summarise_layers, view_row
from util.runs import Run

# Inputs are sorted by length within this many batches: little padding, and the time that is left can be told.
SORTED_BATCHES = 64


@dataclass(frozen=True)
class DecodingData:
    """One split of a task, ready to be decoded. Its length is that of its examples; each has one feature or more.

    Attributes:
        measured: Blocks of text whose perplexity is measured beside, or None.
        labelled: Inputs and labels of the split, as for training; None where no exit's loss is asked for.
    """

    task: Task
    examples: Dataset
    features: list[Feature]
    measured: Dataset | None = None
    labelled: Dataset | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def windowed(self) -> bool:
        """Whether an example has several inputs, of whose answers one is chosen."""
        return len(self.features) > len(self.examples)


@dataclass(frozen=True)
class DecodingOptions:
    """How inputs are batched and answers generated.

    Attributes:
        generation: lengths, beams, penalties.
        policy: when tokens may leave.
        reading: how an answer is read from what was written.
        batch_size: inputs per batch and process.
        pad_to: width every input is padded to; None pads to the longest of the batch.
        keep_traces: record every token's exit, confidences and head rows.
        views: of `views.VIEWS`, what else to record of every token.
        exit_layers: Layers whose loss and token accuracy under teacher forcing are measured beside.
        null_score_diff_threshold: see `tasks.best_window`.
        bar: see `reporting.progress`.
    """

    generation: GenerationConfig
    policy: Policy = field(default_factory=Policy)
    reading: Reading = field(default_factory=Reading)
    batch_size: int = 8
    pad_to: int | None = None
    keep_traces: bool = True
    views: tuple[str, ...] = ()
    exit_layers: tuple[int, ...] = ()
    null_score_diff_threshold: float = 0.0
    bar: bool | None = None

    @property
    def beams(self) -> int:
        return self.generation.num_beams or 1

    def with_generation(self, changes: dict) -> "DecodingOptions":
        """The same with other generation settings."""
        generation = copy.deepcopy(self.generation)
        generation.update(**changes)
        return replace(self, generation=generation)


@dataclass
class Outcome:
    """What a split's decoding came to: metrics, and a dict per example in their order."""

    metrics: dict
    predictions: list[dict] = field(default_factory=list)


class Memory:
    """Stands in for a `Run` that leaves no files, as within training."""

    def __init__(self):
        self.recorded: list[dict] = []

    def append(self, line: dict, **details: Sequence[dict]) -> None:
        """Keep the line of a finished batch."""
        self.recorded.append(line)


def evaluate(
    model,
    tokenizer: PreTrainedTokenizerBase,
    data: DecodingData,
    options: DecodingOptions,
    prefix: str = "eval",
    run: Run | None = None,
) -> Outcome:
    """Decode a split in all processes of the job and score it.

    Args:
        model: a deployed model, on its device; its mode (training or not) is restored.
        prefix: what the names of the metrics begin with, but for `time_*`.
        run: where batches are recorded, after its `prepare`; what is there already is not decoded again. Its
            `finish` writes the results, to which its settings are added.
    """
    was_training = model.training
    model.eval()
    lines = decode(model, tokenizer, data, options, run)
    model.train(was_training)
    return by_main(lambda: summarise(lines, model, data, options, prefix, run))


# ------------------------------------------------------------------------------------------------------------ decoding
def plan(features: Sequence[Feature], batch_size: int) -> list[list[Feature]]:
    """The batches of the whole job: in the order given at batch size 1, else of similar length, longest first."""
    if batch_size == 1:
        return [[feature] for feature in features]
    batches = []
    stretch = SORTED_BATCHES * batch_size
    for start in range(0, len(features), stretch):
        ordered = sorted(features[start : start + stretch], key=lambda feature: -len(feature.input_ids))
        batches += [ordered[first : first + batch_size] for first in range(0, len(ordered), batch_size)]
    return batches


def decode(
    model, tokenizer: PreTrainedTokenizerBase, data: DecodingData, options: DecodingOptions, run: Run | None
) -> list[dict]:
    """Decode what is not recorded yet; the lines of all batches, of which only the main process may make use."""
    batches = plan(data.features, options.batch_size)
    session, done, learnt = by_main(lambda: recorded(run))
    threshold = restore_threshold(model, options.policy, learnt.get(process_index(), []))
    mine = [batch for batch in batches[process_index() :: process_count()] if not done.issuperset(map(key, batch))]
    store = run or Memory()
    label = "Decoding" + (f", {len(done)} of {len(data.features)} inputs were there already" if done else "")
    with progress(sum(map(len, mine)), label, options.bar if process_index() == 0 else False) as advance:
        for batch in mine:
            if interrupts.asked():
                break
            seen = threshold.seen if threshold else 0
            decoded, details, seconds = decode_batch(model, tokenizer, batch, options, data.windowed)
            store.append(
                {
                    **({"threshold": threshold.state_dict(seen)} if threshold else {}),
                    "session": session,
                    "process": process_index(),
                    "seconds": seconds,
                    "decoded": [asdict(each) for each in decoded],
                },
                **details,
            )
            advance(len(batch))
    if told(model.device):  # in training, which saves then; elsewhere it is a `Leave` at once
        raise interrupts.Leave
    if run is None:
        return from_all(store.recorded)
    return run.lines() if process_index() == 0 else []


def key(feature: Feature) -> tuple[str, int]:
    """What identifies an input within a split."""
    return feature.example_id, feature.window


def recorded(run: Run | None) -> tuple[int, set[tuple[str, int]], dict[int, list[dict]]]:
    """(number of this start of the run, from 1; inputs that earlier ones decoded; what each process's adaptive
    threshold saw, batch by batch)."""
    lines = run.lines() if run else []
    done = {(each["id"], each["window"]) for line in lines for each in line["decoded"]}
    return 1 + max((line["session"] for line in lines), default=0), done, thresholds(lines)


def thresholds(lines: Sequence[dict]) -> dict[int, list[dict]]:
    """Process -> what its adaptive threshold saw in each of its batches."""
    learnt: dict[int, list[dict]] = {}
    for line in lines:
        if "threshold" in line:
            learnt.setdefault(line["process"], []).append(line["threshold"])
    return learnt


def restore_threshold(model, policy: Policy, learnt: Sequence[dict]) -> AdaptiveThreshold | None:
    """The adaptive threshold of this process and this run, which begins where an earlier start of it was; None where
    the policy has none."""
    if not policy.adapts:
        return None
    model.threshold = AdaptiveThreshold(policy.threshold)
    model.threshold.load_state_dict(*learnt)
    return model.threshold


def decode_batch(
    model,
    tokenizer: PreTrainedTokenizerBase,
    batch: Sequence[Feature],
    options: DecodingOptions,
    scored: bool,
    streamer: Streamer | None = None,
) -> tuple[list[Decoded], dict[str, list[dict]], dict[str, float]]:
    """The answers to a batch, the details to keep of each input by kind, and the seconds it took by part and in all.

    Args:
        scored: Whether mean log-probabilities are needed.
        streamer: Gets the tokens of a single input as they come.
    """
    started = time.perf_counter()
    pad = tokenizer.pad_token_id
    left = not model.config.is_encoder_decoder
    inputs = padded([feature.input_ids for feature in batch], pad, options.pad_to, left)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    prompt = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    settings = {"generation_config": options.generation, "policy": options.policy}
    settings["stopping_criteria"] = stopping(tokenizer, options.reading.stop, prompt)
    if options.beams > 1:
        sequences, scores, trace, seconds = search(model, inputs, **settings)
    else:
        kept = {"return_logprobs": scored, "return_states": bool(options.views), "streamer": streamer}
        sequences, scores, trace, seconds = leave_early(model, inputs, **settings, **kept)
    seconds["batch"] = time.perf_counter() - started
    answers = sequences[:, prompt:].tolist()
    texts = options.reading.answers(tokenizer, [feature.input_ids for feature in batch], answers)
    flops = trace.flops() if trace else {}
    lens = Lens(model.unembed(), tokenizer, options.policy, options.reading) if options.views else None
    decoded: list[Decoded] = []
    details: dict[str, list[dict]] = {}
    for row, (feature, text) in enumerate(zip(batch, texts, strict=True)):
        cost = exit_cost(trace, row, flops, options.policy) if trace else {}
        length = len(cost["exit_layers"]) if trace else generated_length([pad, *answers[row]], pad)
        score = None if scores is None else scores[row]
        decoded.append(Decoded(feature.example_id, feature.window, text, length, score, **cost))
        if trace and options.keep_traces:
            line = trace_row(feature, answers[row][:length], trace, row)
            details.setdefault("traces", []).append(line | {"texts": token_texts(tokenizer, line["tokens"])})
        for name in options.views if trace else ():
            details.setdefault(name, []).append(view_row(name, lens, feature, answers[row][:length], trace, row))
    return decoded, details, seconds


def padded(rows: Sequence[list[int]], pad: int, width: int | None, left: bool) -> dict[str, Tensor]:
    """input_ids and attention_mask [B, T] of rows of token ids, padded to `width` or to the longest."""
    width = max(width or 0, max(map(len, rows)))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row)
        mask[index, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def leave_early(model, inputs: dict[str, Tensor], **settings):
    """(sequences, mean log-probability of each or None, trace, seconds) of greedy decoding or sampling.

    Args:
        settings: Of `generate`; return_logprobs, for the mean log-probability, and return_states, for views, among
            them.
    """
    sequences, trace = model.generate(**inputs, **settings, return_trace=True)
    scores = None
    if trace.logprobs is not None:
        scores = [float(np.mean(trace.logprobs[row, :length])) for row, length in enumerate(trace.lengths)]
    return sequences, scores, trace, dict(trace.seconds)


def search(model, inputs: dict[str, Tensor], generation_config: GenerationConfig, **settings):
    """The same of the library's beam search: no trace, and the score is the beam's, which --length_penalty shapes."""
    started = time.perf_counter()
    more = {}
    if model.config.is_encoder_decoder:
        with torch.no_grad():
            more["encoder_outputs"] = model.get_encoder()(**inputs)
    encoder_seconds = time.perf_counter() - started
    generation = copy.deepcopy(generation_config)
    generation.update(return_dict_in_generate=True, output_scores=True)
    output = model.generate(**inputs, **more, generation_config=generation, **settings)
    seconds = {"encoder_forward": encoder_seconds, "decoder_forward": time.perf_counter() - started - encoder_seconds}
    return output.sequences, output.sequences_scores.tolist(), None, seconds


# --------------------------------------------------------------------------------------------------------- aggregation
def _teacher_forced(model, data: DecodingData, options: DecodingOptions) -> dict[str, float]:
    """Scores of the exits asked for on the labels of the split."""
    if data.labelled is None or not options.exit_layers:
        return {}
    return exit_score_metrics(model, data.labelled, options.batch_size, options.exit_layers)


def summarise(
    lines: list[dict], model, data: DecodingData, options: DecodingOptions, prefix: str, run: Run | None
) -> Outcome:
    """Metrics and predictions from the lines of all batches; the run, if any, is finished with them."""
    decoded = unique(lines, data)
    chosen = choose(decoded, data, options.null_score_diff_threshold)
    texts = {each.id: each.text for each in chosen}
    flat = [each for windows in decoded.values() for each in windows]
    layers = getattr(model, "num_exit_layers", None)
    scored = prefix != "predict" or any(is_scored(data.task, each) for each in data.examples["references"])
    metrics = {
        **(score(data.task, texts, data.examples) if scored else {}),
        **({} if data.measured is None else perplexities(model, data.measured, options.batch_size)),
        **_teacher_forced(model, data, options),
        "gen_len": float(np.mean([each.length for each in chosen])),
        **exit_metrics(flat, layers, len(data)),
        **threshold_metrics(lines),
        "samples": len(data),
        **speed_metrics(lines, flat, len(data)),
    }
    metrics = {f"{prefix}_{name}": value for name, value in metrics.items()}
    metrics |= {f"time_{name}": total(lines, name) for name in ("encoder_forward", "decoder_forward")}
    predictions = prediction_rows(chosen, decoded, data)
    if run is not None:
        batches = {"batch_size": options.batch_size, "processes": process_count()}
        metrics["environment"] = environment(model.device) | batches
        inputs = [(each.id, each.window) for each in flat]
        metrics = run.finish(metrics, predictions, inputs, summaries(run, chosen, data, options))
    return Outcome(metrics, predictions)


def summaries(run: Run, chosen: Sequence[Decoded], data: DecodingData, options: DecodingOptions) -> dict:
    """Name -> value of the files that sum a view up."""
    if "layers" not in options.views:
        return {}
    inputs = {(each.id, each.window) for each in chosen}
    lines = {(line["id"], line["window"]): line for line in run.details("layers")}
    return {"layers": summarise_layers(lines.values(), inputs, data.task, data.examples)}


def unique(lines: list[dict], data: DecodingData) -> dict[str, list[Decoded]]:
    """Example id -> its answers by window, in the order of the examples, each input once."""
    by_key: dict[tuple, Decoded] = {}
    for line in lines:
        for each in line["decoded"]:
            by_key.setdefault((each["id"], each["window"]), Decoded(**each))
    grouped: dict[str, list[Decoded]] = {name: [] for name in data.examples["id"]}
    for feature in data.features:
        grouped[feature.example_id].append(by_key[key(feature)])
    return grouped


def choose(decoded: dict[str, list[Decoded]], data: DecodingData, null_threshold: float) -> list[Decoded]:
    """The answer of each example: of several windows the one of highest mean log-probability."""
    chosen = []
    for windows in decoded.values():
        texts = [each.text for each in windows] if METRICS[data.task.metric].unanswerable else None
        scores = [float("nan") if each.score is None else each.score for each in windows]
        chosen.append(windows[best_window(scores, texts, null_threshold)] if len(windows) > 1 else windows[0])
    return chosen


def threshold_metrics(lines: Sequence[dict]) -> dict:
    """Where the adaptive threshold of each process, which learns from its own inputs alone, ended up."""
    learnt = thresholds(lines)
    found = {str(process): {key: states[-1][key] for key in ("value", "fits")} for process, states in learnt.items()}
    return {"adaptive_threshold": found} if found else {}


def speed_metrics(lines: list[dict], decoded: Sequence[Decoded], samples: int) -> dict:
    """Seconds and rates. The seconds of a run that was continued are those of all its parts.

    `runtime`: of the process that took longest, summed over the starts of the run. `tokens_per_second`: tokens of
    all windows per second that one process spends in `generate`.
    """
    by_process: dict[tuple, float] = {}
    for line in lines:
        part = (line["session"], line["process"])
        by_process[part] = by_process.get(part, 0.0) + line["seconds"]["batch"]
    sessions = {session for session, _ in by_process}
    runtime = sum(max(value for (s, _), value in by_process.items() if s == session) for session in sessions)
    tokens = sum(each.length for each in decoded)
    return {
        "runtime": runtime,
        "samples_per_second": samples / runtime,
        "steps_per_second": len(lines) / runtime,
        "tokens_per_second": tokens / (total(lines, "encoder_forward") + total(lines, "decoder_forward")),
        "generated_tokens": tokens,
        "starts": len(sessions),
    }


def total(lines: list[dict], name: str) -> float:
    """Seconds of that part, summed over batches and processes."""
    return sum(line["seconds"][name] for line in lines)


def prediction_rows(chosen: Sequence[Decoded], decoded: dict[str, list[Decoded]], data: DecodingData) -> list[dict]:
    """The lines of predictions.jsonl, one per example; tokens, depths and FLOPs are those of all its windows."""
    rows = []
    for answer, references in zip(chosen, data.examples["references"], strict=True):
        row = {"id": answer.id, "prediction": answer.text, "references": references}
        row |= score_example(data.task, answer.text, references)
        row |= costs(decoded[answer.id])
        rows.append(row | ({"window": answer.window} if data.windowed else {}))
    return rows


def data_fingerprint(data: DecodingData) -> str:
    """What stands for the inputs, the references and their order, however they were named, read and tokenised."""
    hashed = hashlib.sha256()
    for feature in data.features:
        hashed.update(f"{feature.example_id} {feature.window} {feature.input_ids}".encode())
    for references in data.examples["references"]:
        hashed.update(repr(references).encode())
    for row in data.measured or ():
        hashed.update(repr((row["input_ids"], row["labels"])).encode())
    return hashed.hexdigest()[:16]
