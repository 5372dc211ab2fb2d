"""Our models in lm-evaluation-harness, under the name `early_exit`; imported only where that package is installed.

Generation tasks run under the policy; log-likelihoods are those of a layer, read as an exit is, by default the last.
A strategy that contrasts layers does both. Under a launcher every process has its part of a task's documents, as with
the harness's own models.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from decoding.stops import before, stopping
from decoding.strategies import Strategy
from decoding.trace import ExitTrace
from jobs.likelihoods import Likelihoods, Pair, side_by_side
from jobs.loading import check_policy, fit_embeddings, load_config, load_model, load_tokenizer, prompt_ids
from jobs.memory import Rows
from models import deploying_class
from training.evaluation import padded
from training.reporting import loading_bar
from util import AdditionalArguments, DecoderArguments, update_autoconfig
from util.arguments import build
from util.harness_args import HarnessArguments

logger = logging.getLogger(__name__)

# Mean over tokens -> what is summed up: layers each ran before it was emitted, and all that ran for it.
DEPTHS = {"block_avg": "layers", "layers_run": "passes"}
# Arguments that are told beside a strategy.
OF_LIKELIHOODS = ("likelihood_alpha", "post_softmax")
# New tokens of a task that names no number, or half of what there is room for.
MAX_NEW_TOKENS = 256
# How long a process waits for one with longer documents: as the harness has it, for ever.
PATIENCE = timedelta(weeks=52)
Scored = tuple[tuple[str, str], list[int], list[int]]


@register_model("early_exit")
class EarlyExitLM(TemplateLM):
    """A decoder-only model under a policy of early exits, or a strategy that contrasts its layers.

    Args:
        pretrained: Folder or hub name; the embedded GPT-2 where not given.
        batch_size: As usual; `auto` is 8.
        max_batch_size: Of `auto`, for which the harness has it.
        given: The others of `util.harness_args.HarnessArguments`, and flags of early exit by their names, such as
            use_early_exit=True,exit_conf_threshold=0.9.

    Raises:
        ValueError: A name is none of these, or the settings do not fit the model.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        **given: Any,
    ):
        super().__init__()
        own = [declared.name for declared in fields(HarnessArguments)]
        unknown = [name for name in given if name not in (*own, *AdditionalArguments.flag_names())]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no such argument; valid beside the flags of early exit are {', '.join(own)}."
            )
        # The harness names this GPU where nothing is given, whether there is one or not.
        given["device"] = None if given.get("device") == "cuda:0" else given.get("device")
        given["batch_size"] = 8 if str(batch_size).startswith("auto") else int(batch_size)
        given |= {} if pretrained is None else {"model_name_or_path": pretrained}
        classes = (DecoderArguments, HarnessArguments, AdditionalArguments)
        model_args, self.args, flags = build(classes, given)
        self._join(self.args.torch_device)
        config = load_config(model_args, encoder=False)
        update_autoconfig(config, flags, max_answer_length=MAX_NEW_TOKENS)
        self.policy = flags.policy(MAX_NEW_TOKENS)
        self.tokenizer = load_tokenizer(model_args)
        check_policy(self.policy, config, self.tokenizer)
        depth = deploying_class(config).adapter_class.count_layers(config)
        self.strategy = self._strategy(depth, bool(config.tie_word_embeddings))
        rows = None if self.args.max_length is None else Rows(self.args.batch_size, self.args.max_length)
        self.model = load_model(model_args, config, self.args.torch_dtype, device=self.device, rows=rows).eval()
        fit_embeddings(self.model, self.tokenizer, model_args.model_name_or_path, training=False)
        self.policy.check(depth)
        self.batch_size = self.args.batch_size
        self.max_length = self.args.max_length or getattr(config, "max_position_embeddings", None) or 2048
        self._likelihoods = Likelihoods(self.model, self.tokenizer, self.batch_size, self.max_length)
        self.counts: Counter[str] = Counter()  # of the tokens generated
        self.all_counts: Counter[str] = Counter()  # in all processes, in the first one of several
        if self.strategy is None:
            logger.info("Policy: %s.", self.policy.explain(depth))

    def _strategy(self, depth: int, tied: bool) -> Strategy | None:
        """What contrasts layers, None where nothing does. Kept beside it: what scores answers, and what would choose
        their tokens, the same where nothing contrasts."""
        args = self.args
        self.likelihood_layer = depth if args.likelihood_layer is None else args.likelihood_layer
        if not 1 <= self.likelihood_layer <= depth:
            raise ValueError(f"likelihood_layer is {self.likelihood_layer}: valid are 1 to {depth} for this model.")
        strategy = args.strategy_of(depth, tied)
        if strategy is not None and self.policy.exits:
            raise ValueError(f"strategy {args.strategy} runs every layer: drop the flags of early exit.")
        chosen = Strategy("plain", expert=self.likelihood_layer) if strategy is None else strategy
        scored = args.scoring(chosen)
        self._scoring = {"scored": scored} if strategy is None else {"scored": scored, "chosen": chosen}
        return strategy

    # ----------------------------------------------------------------------------------------------- several processes
    def _join(self, device: torch.device) -> None:
        """Take this process's part where a launcher started several."""
        self._device = device
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            state = PartialState(cpu=device.type == "cpu", timeout=PATIENCE)
            self._device, self._rank, self._world_size = state.device, state.process_index, state.num_processes

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return gather(tensor) if self.world_size > 1 else tensor

    def gather_object(self, obj: Any, dst: int = 0) -> list | None:
        """With the objects, which the harness gathers at its end, comes what tokens cost in every process."""
        if self.world_size == 1:
            return [obj]
        found: list | None = [None] * self.world_size if self.rank == dst else None
        torch.distributed.gather_object((obj, self.counts), found, dst)
        if found is None:
            return None
        self.all_counts = sum((counts for _, counts in found), Counter())
        return [each for each, _ in found]

    def barrier(self) -> None:
        if self.world_size > 1:
            PartialState().wait_for_everyone()

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> EarlyExitLM:
        """What --model_args says counts before the harness's own --device and --batch_size."""
        own = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**own | arg_dict)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """Under which the harness caches requests."""
        return self.tokenizer.name_or_path.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer(string, verbose=False, **special)["input_ids"]

    # ----------------------------------------------------------------------------------------------------- likelihoods
    def _loglikelihood_tokens(
        self, requests: list[Scored], disable_tqdm: bool = False, cached: bool = True, **kwargs
    ) -> list:
        """(sum of log-probabilities, whether each token is the one that would be chosen) of continuations, at the layer
        or under the strategy."""
        pairs = [Pair(context, continuation) for _, context, continuation in requests]
        order = side_by_side(pairs)
        found: list = [None] * len(requests)
        with loading_bar(len(order), "Log-likelihoods", disable_tqdm or self.rank > 0) as bar:
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                for place, value in zip(places, self._scores([pairs[i] for i in places]), strict=True):
                    found[place] = value
                    if cached:
                        self.cache_hook.add_partial("loglikelihood", requests[place][0], value)
                bar.update(len(places))
        return found

    def _scores(self, pairs: list[Pair]) -> list[tuple[float, bool]]:
        found = self._likelihoods.of_pairs(pairs, self._scoring, self.args.post_softmax)
        scored = found["scored"]
        return [
            (each.total, bool(would.greedy)) for each, would in zip(scored, found.get("chosen", scored), strict=True)
        ]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, longer ones in windows that do not overlap in what they predict."""
        totals = []
        bar = loading_bar(len(requests), "Whole texts", disable_tqdm or self.rank > 0)
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pieces = [(("", ""), *make_disjoint_window(window)) for window in windows]
            total = sum(value for value, _ in self._loglikelihood_tokens(pieces, True, cached=False))
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            bar.update()
        bar.close()
        return totals

    # ------------------------------------------------------------------------------------------------------ generation
    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """Continuations under the policy or the strategy, cut before the first of the task's ends."""
        found: list = [None] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        filling = _filling(requests)
        for index, request in enumerate(requests):
            if index not in filling:
                groups[repr(sorted(request.args[1].items(), key=str))].append(index)
        with loading_bar(len(requests), "Continuations", disable_tqdm or self.rank > 0) as bar:
            for indices in groups.values():
                for start in range(0, len(indices), self.batch_size):
                    chosen = indices[start : start + self.batch_size]
                    texts = self._continue([requests[i].args[0] for i in chosen], requests[chosen[0]].args[1])
                    for index, text in zip(chosen, texts, strict=True):
                        found[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    bar.update(len(chosen))
        for index, same in filling.items():
            found[index] = found[same]
        return found

    def _continue(self, contexts: list[str], settings: dict) -> list[str]:
        settings = normalize_gen_kwargs(settings, min(MAX_NEW_TOKENS, self.max_length // 2))
        until, length = [end for end in settings.pop("until") if end], settings.pop("max_gen_toks")
        if not 0 < length < self.max_length:
            raise ValueError(
                f"A task asks for {length} new tokens, but max_length is {self.max_length} for prompt and answer: "
                f"valid are 1 to {self.max_length - 1}."
            )
        if not settings["do_sample"]:
            settings.pop("temperature", None)  # 0, for which the library has a warning
        ids = [prompt_ids(self.tokenizer, context)[-(self.max_length - length) :] for context in contexts]
        inputs = padded(ids, self.tokenizer.pad_token_id or 0, None, left=True)
        start = inputs["input_ids"].shape[1]
        sequences, trace = self.model.generate(
            **{name: tensor.to(self.model.device) for name, tensor in inputs.items()},
            **{"num_beams": 1, **settings},
            max_new_tokens=length,
            stopping_criteria=stopping(self.tokenizer, until, start),
            policy=self.policy,
            strategy=self.strategy,
            return_trace=True,
        )
        answers = sequences[:, start:].tolist()
        if isinstance(trace, ExitTrace):  # beams and strategies have none
            self._count(trace)
            answers = [answer[:end] for answer, end in zip(answers, trace.lengths.tolist(), strict=True)]
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [before(text, until) for text in texts]

    def _count(self, trace: ExitTrace) -> None:
        """Add what a call's tokens cost to that of those before."""
        found = {"tokens": trace.lengths, "layers": trace.exit_layers, "passes": trace.passes}
        found |= {name: trace.counts[name] for name in ("drafted", "accepted", "undrafted")}
        self.counts.update({name: int(values.sum()) for name, values in found.items()})

    def get_model_info(self) -> dict:
        """What the harness writes beside its results: the policy, and how deep generated tokens went, named as in the
        results of a run."""
        counts = self.all_counts or self.counts
        depth = {name: counts[kind] / counts["tokens"] for name, kind in DEPTHS.items() if counts["tokens"]}
        verified = {"acceptance_rate": counts["accepted"] / counts["drafted"]} if counts["drafted"] else {}
        if counts["undrafted"]:
            verified["undrafted_rate"] = counts["undrafted"] / counts["tokens"]
        told = {"policy": self.policy.describe(), "likelihood_layer": self.likelihood_layer}
        if self.strategy is not None:
            told = {"strategy": asdict(self.strategy), **{name: getattr(self.args, name) for name in OF_LIKELIHOODS}}
        return {**told, **depth, **verified}


def _filling(requests) -> dict[int, int]:
    """Where requests stand that the harness repeats so that all processes have as many, and where the same one does."""
    seen, first, filling = Counter(), {}, {}
    for index, request in enumerate(requests):
        seen[id(request)] += 1
        first.setdefault(id(request), index)
        if seen[id(request)] > getattr(request, "repeats", len(requests)):
            filling[index] = first[id(request)]
    return filling
