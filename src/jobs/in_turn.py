"""Policies on the same prompts in turn: what each writes, what that costs, and its seconds, kept prompt by prompt.

Every prompt is decoded under all policies before the next one, at batch 1, so that whatever else the machine does falls
on all of them alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from decoding.policy import Policy
from decoding.thresholds import AdaptiveThreshold
from jobs.generating import read_prompts
from jobs.job import Job
from jobs.loading import as_prompt, check_policy, load_for_decoding, prompt_ids
from tasks.features import Feature
from tasks.forms import GREEDY
from training.evaluation import DecodingData, DecodingOptions, decode_batch
from training.processes import process_count
from training.records import Decoded
from training.reporting import progress
from util import ModelArguments
from util.files import append_jsonl, locked, read_jsonl
from util.generate_args import GenerateArguments
from util.runs import digest, drop_torn_line, fingerprint_model, named_file

# Of a line of answers; what another one wrote is passed over.
FORMAT = 3
# Settings of a job that say nothing of the answer to one prompt at batch 1.
OF_OTHERS = ("policy", "batch_size", "data_fingerprint", "examples")


@dataclass(frozen=True)
class Prompts:
    """A model, and what it is asked.

    Attributes:
        options: Of decoding, but for the policy.
        name: Of the data and of the model, for headings.
        content: What stands for all that shapes an answer, but for the prompt and the policy.
        windowed: Whether an example of the task has several prompts, of whose answers one is chosen.
    """

    model: torch.nn.Module
    tokenizer: object
    features: Sequence[Feature]
    options: DecodingOptions
    name: tuple[str, str]
    content: str
    windowed: bool = False

    @classmethod
    def of_job(cls, job: Job) -> Prompts:
        """Those of a job's validation split, as it would evaluate them.

        Raises:
            ValueError: It decodes by beams, of which nothing leaves early, or not at all; or beside other processes.
        """
        data, trainer = job.splits["eval"], job.trainer
        if trainer.decoding.beams > 1:
            raise ValueError(f"{trainer.decoding.beams} beams are asked for, which leave no exit: give --num_beams 1.")
        if not isinstance(data, DecodingData):
            raise ValueError("--predict_with_generate False decodes nothing that could be timed: leave it out.")
        if process_count() > 1:
            raise ValueError(f"Policies take turns in one process, not in {process_count()}: leave the launcher out.")
        name = (job.data_name("eval"), Path(job.model_args.model_name_or_path).resolve().name)
        # What a checkpoint made for conversations asks for would answer otherwise at every turn.
        options = replace(trainer.decoding.with_generation(GREEDY), keep_traces=True, views=(), batch_size=1)
        trainer.model.eval().to(trainer.args.device)
        settings = {key: value for key, value in job.settings("eval").items() if key not in OF_OTHERS}
        content = digest([FORMAT, settings, data.windowed])
        return cls(trainer.model, trainer.processing_class, data.features, options, name, content, data.windowed)

    @classmethod
    def of_file(cls, model_args: ModelArguments, file: str, new_tokens: int, dtype: str, device: str) -> Prompts:
        """Those of a file, each a question to a model with a chat template, continued by others.

        Raises:
            ValueError: The model or the file cannot be used.
        """
        texts = read_prompts(GenerateArguments(prompt_file=file))
        model, tokenizer = load_for_decoding(model_args, getattr(torch, dtype), device)
        inputs = [prompt_ids(tokenizer, as_prompt(tokenizer, text)) for text in texts]
        features = [Feature(str(place), 0, ids) for place, ids in enumerate(inputs)]
        path = Path(model_args.model_name_or_path)
        options = DecodingOptions(model.generation_config).with_generation(
            GREEDY | {"max_new_tokens": new_tokens, "max_length": None, "num_beams": 1}
        )
        content = [FORMAT, fingerprint_model(path) if path.exists() else model.config._commit_hash, dtype, device]
        content += [named_file(model_args.exit_translators)] if model_args.exit_translators else []
        content += [options.generation.to_diff_dict()]
        return cls(model, tokenizer, features, options, (Path(file).name, path.resolve().name), digest(content))

    def asked(self, feature: Feature) -> str:
        """What stands for a prompt and all else that shapes its answer, but for the policy."""
        return digest([self.content, feature.input_ids])

    def check(self, policy: Policy) -> None:
        """Refuse what the model cannot do.

        Raises:
            ValueError: One sentence on it.
        """
        check_policy(policy, self.model.config, self.tokenizer)


@dataclass(frozen=True)
class Answer:
    """What a policy made of a prompt.

    Attributes:
        decoded: As of an evaluation.
        tokens: Those generated, the end of the sequence included.
        seconds: From the prompt's token ids to the last token.
        first_token: Those until the first token stands.
        threshold: What an adaptive threshold saw, or None.
    """

    decoded: Decoded
    tokens: list[int]
    seconds: float
    first_token: float
    threshold: dict | None = None

    @classmethod
    def of_json(cls, held: Mapping) -> Answer:
        """The answer of a line."""
        return cls(**{**held, "decoded": Decoded(**held["decoded"])})


class Pair(NamedTuple):
    """A policy's answer, and that of full depth in the same turn."""

    own: Answer
    full: Answer


class Watch:
    """A streamer that notes when it is told the first token, and that no other comes.

    Attributes:
        first, total: Seconds until then.
    """

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.first: float | None = None
        self.total = 0.0

    def put(self, value: Tensor) -> None:
        """The next token, [1]; what the decoder starts from, [1, P], is none."""
        if value.dim() == 1 and self.first is None:
            self.first = time.perf_counter() - self.started

    def end(self) -> None:
        """No token comes any more."""
        self.total = time.perf_counter() - self.started


class Turns:
    """A file of answers, a line for every prompt and turn; what it holds of these prompts is not decoded again.

    A policy that is asked for later takes its turns with full depth, which is timed again there; more prompts
    of the same kind are added to those that are there.
    """

    def __init__(self, prompts: Prompts, path: Path):
        self.prompts, self.path = prompts, path
        self.model = prompts.model
        # Prompt -> its turns in their order, each the answers by key of their policy.
        self._turns: dict[tuple[str, int], list[dict[str, dict]]] = {}
        # Prompt -> what stands for those before it, on which an adaptive threshold was fitted.
        self._earlier: dict[tuple[str, int], str] = {}

    def decode(self, policies: Mapping[str, Policy]) -> dict[str, list[Pair]]:
        """Name of a policy -> its answers, prompt by prompt.

        Args:
            policies: By name; one of them is full depth.

        Raises:
            ValueError: Another process is at the file, or it is damaged.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(self.path.with_name(".lock"))
        if lock is None:
            raise ValueError(f"Another process is writing {self.path}: wait for it, or give another --out.")
        with lock:
            self._read()
            return self._decode(policies)

    def _read(self) -> None:
        """Keep what the file holds of these prompts."""
        self._turns.clear()
        asked = {(each.example_id, each.window): self.prompts.asked(each) for each in self.prompts.features}
        earlier = ""
        for prompt, content in asked.items():
            self._earlier[prompt] = earlier
            earlier = digest([earlier, content])
        if self.path.is_file():
            drop_torn_line(self.path)
            for line in read_jsonl(self.path):
                if line.get("asked") == asked.get((line.get("id"), line.get("window")), ""):
                    self._keep(line)

    def _decode(self, policies: Mapping[str, Policy]) -> dict[str, list[Pair]]:
        full = next(name for name, policy in policies.items() if not policy.exits)
        thresholds = {name: self._threshold(policy) for name, policy in policies.items()}
        turns = [(feature, self._turn(feature, policies, full)) for feature in self.prompts.features]
        left = [(place, feature, names) for place, (feature, names) in enumerate(turns) if names]
        # Memory is taken, and weights are read from the disk, in the first call.
        for _, feature, names in left[:1]:
            for name in names:
                self._answer(feature, policies[name], self._threshold(policies[name]))
        with progress(len(left), "Decoding in turn") as advance:
            for place, feature, names in left:
                first = place % len(names)  # each policy begins as often as any other
                answers = {
                    self._key(policies[name], feature): self._answer(feature, policies[name], thresholds[name])
                    for name in (*names[first:], *names[:first])
                }
                line = {"asked": self.prompts.asked(feature), "id": feature.example_id, "window": feature.window}
                line |= {"answers": {key: asdict(answer) for key, answer in answers.items()}}
                append_jsonl(self.path, [line])
                self._keep(line)
                advance(1)
        return {name: self._pairs(policy, policies[full]) for name, policy in policies.items()}

    def _key(self, policy: Policy, feature: Feature) -> str:
        """What stands for a policy at a prompt: where it adapts, with the prompts that it has adapted to."""
        said = policy.describe()
        return digest([said, self._earlier[feature.example_id, feature.window]] if policy.adapts else said)

    def _turn(self, feature: Feature, policies: Mapping[str, Policy], full: str) -> list[str]:
        """The policies that a prompt was not answered under, and full depth before them; one that has several names
        by the first of them."""
        answered = {key for turn in self._of(feature) for key in turn}
        missing: dict[str, str] = {}
        for name, policy in policies.items():
            if (key := self._key(policy, feature)) not in answered:
                missing.setdefault(key, name)
        return list(dict.fromkeys((full, *missing.values()))) if missing else []

    def _keep(self, line: dict) -> None:
        self._turns.setdefault((line["id"], line["window"]), []).append(line["answers"])

    def _of(self, feature: Feature) -> list[dict[str, dict]]:
        return self._turns.get((feature.example_id, feature.window), [])

    def _pairs(self, own: Policy, full: Policy) -> list[Pair]:
        """Of a policy, from the turn in which it first answered each prompt."""
        found = []
        for feature in self.prompts.features:
            keys = self._key(own, feature), self._key(full, feature)
            turn = next(turn for turn in self._of(feature) if keys[0] in turn)
            found.append(Pair(*(Answer.of_json(turn[key]) for key in keys)))
        return found

    def _threshold(self, policy: Policy) -> AdaptiveThreshold | None:
        """Where an adaptive one was after the answers that are there."""
        if not policy.adapts:
            return None
        found = AdaptiveThreshold(policy.threshold)
        turns = [(self._key(policy, each), turn) for each in self.prompts.features for turn in self._of(each)]
        seen = [turn[key]["threshold"] for key, turn in turns if key in turn]
        if seen:
            found.load_state_dict(*seen)
        return found

    def _answer(self, feature: Feature, policy: Policy, threshold: AdaptiveThreshold | None) -> Answer:
        self.model.threshold = threshold
        seen = threshold.seen if threshold else 0
        options, watch = replace(self.prompts.options, policy=policy), Watch()
        what = (self.model, self.prompts.tokenizer, [feature], options, self.prompts.windowed, watch)
        (decoded,), details, _ = decode_batch(*what)
        tokens = details["traces"][0]["tokens"]
        learnt = threshold.state_dict(seen) if threshold else None
        return Answer(decoded, tokens, watch.total, watch.total if watch.first is None else watch.first, learnt)
