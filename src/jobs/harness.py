"""Our models in lm-evaluation-harness, under the name `early_exit`; imported only where that package is installed.

Generation tasks run under the policy; log-likelihoods are those of a layer, read as an exit is, by default the last.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from decoding.stops import before, stopping
from decoding.trace import ExitTrace
from jobs.loading import check_policy, fit_embeddings, load_config, load_model, load_tokenizer, prompt_ids
from training.evaluation import padded
from training.reporting import loading_bar
from util import AdditionalArguments, DecoderArguments, update_autoconfig
from util.arguments import build
from util.checks import device_problems, raise_together

logger = logging.getLogger(__name__)

# Mean over tokens -> what is summed up: layers each ran before it was emitted, and all that ran for it.
DEPTHS = {"block_avg": "layers", "layers_run": "passes"}
# New tokens of a task that names no number, or half of what there is room for.
MAX_NEW_TOKENS = 256
Scored = tuple[tuple[str, str], list[int], list[int]]


@register_model("early_exit")
class EarlyExitLM(TemplateLM):
    """A decoder-only model under a policy of early exits.

    Args:
        pretrained: Folder or hub name; the embedded GPT-2 where not given.
        gguf_file: A GGUF checkpoint in it.
        exit_translators: A file of translators of its exits.
        likelihood_layer: The layer whose log-likelihoods are taken, from 1; the last where not given.
        dtype, device, batch_size, max_length: As usual; max_length bounds prompt and answer together.
        policy: Flags of early exit by their names, such as use_early_exit=True,exit_conf_threshold=0.9.

    Raises:
        ValueError: A name is none of these, or the settings do not fit the model.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        gguf_file: str | None = None,
        exit_translators: str | None = None,
        likelihood_layer: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        max_batch_size: int | None = None,
        **policy: Any,
    ):
        super().__init__()
        unknown = [name for name in policy if name not in AdditionalArguments.flag_names()]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no such argument; valid beside the flags of early exit are "
                "pretrained, gguf_file, exit_translators, likelihood_layer, dtype, device, batch_size and max_length."
            )
        # The harness names this GPU where nothing is given, whether there is one or not.
        device = None if device == "cuda:0" else device
        raise_together(device_problems(device, "device"))
        named = {} if pretrained is None else {"model_name_or_path": pretrained}
        model_args = DecoderArguments(**named, gguf_file=gguf_file, exit_translators=exit_translators)
        config = load_config(model_args, encoder=False)
        (flags,) = build((AdditionalArguments,), policy)
        update_autoconfig(config, flags, max_answer_length=MAX_NEW_TOKENS)
        self.policy = flags.policy(MAX_NEW_TOKENS)
        self.tokenizer = load_tokenizer(model_args)
        check_policy(self.policy, config, self.tokenizer)
        where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = load_model(model_args, config, getattr(torch, dtype)).to(where).eval()
        fit_embeddings(self.model, self.tokenizer, model_args.model_name_or_path, training=False)
        self.policy.check(self.model.num_exit_layers)
        self.likelihood_layer = likelihood_layer or self.model.num_exit_layers
        if not 1 <= self.likelihood_layer <= self.model.num_exit_layers:
            raise ValueError(
                f"likelihood_layer is {likelihood_layer}: valid are 1 to {self.model.num_exit_layers} for this model."
            )
        self.batch_size = 8 if str(batch_size).startswith("auto") else int(batch_size)
        self.max_length = max_length or getattr(config, "max_position_embeddings", None) or 2048
        self.counts: Counter[str] = Counter()  # of the tokens generated
        logger.info("Policy: %s.", self.policy.explain(self.model.num_exit_layers))

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
        """(sum of log-probabilities, whether each token is the likeliest) of continuations, at the layer."""
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        found: list = [None] * len(requests)
        with loading_bar(len(order), "Log-likelihoods", disable_tqdm) as bar:
            for start in range(0, len(order), self.batch_size):
                chosen = order[start : start + self.batch_size]
                for index, value in zip(chosen, self._scores([requests[i] for i in chosen]), strict=True):
                    found[index] = value
                    if cached:
                        self.cache_hook.add_partial("loglikelihood", requests[index][0], value)
                bar.update(len(chosen))
        return found

    @torch.no_grad()
    def _scores(self, requests: list[Scored]) -> list[tuple[float, bool]]:
        rows = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        inputs = padded([row[:-1] for row in rows], self.tokenizer.pad_token_id or 0, None, left=False)
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        states = self.model.normed_states(**inputs)[self.likelihood_layer - 1]
        unembed, scores = self.model.unembed(), []
        for hidden, row, (*_, continuation) in zip(states, rows, requests, strict=True):
            continuation = continuation[-(len(row) - 1) :]  # of a longer one the last tokens, behind the first kept
            first = len(row) - 1 - len(continuation)
            log_p = unembed(hidden[first : len(row) - 1]).float().log_softmax(-1)
            tokens = torch.tensor(continuation, device=log_p.device)
            total = float(log_p.gather(1, tokens[:, None]).sum())
            scores.append((total, bool((log_p.argmax(-1) == tokens).all())))
        return scores

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, longer ones in windows that do not overlap in what they predict."""
        totals = []
        bar = loading_bar(len(requests), "Whole texts", disable_tqdm)
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
        """Continuations under the policy, cut before the first of the task's ends."""
        found: list = [None] * len(requests)
        groups: dict[str, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items(), key=str))].append(index)
        with loading_bar(len(requests), "Continuations", disable_tqdm) as bar:
            for indices in groups.values():
                for start in range(0, len(indices), self.batch_size):
                    chosen = indices[start : start + self.batch_size]
                    texts = self._continue([requests[i].args[0] for i in chosen], requests[chosen[0]].args[1])
                    for index, text in zip(chosen, texts, strict=True):
                        found[index] = text
                        self.cache_hook.add_partial("generate_until", requests[index].args, text)
                    bar.update(len(chosen))
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
            return_trace=True,
        )
        answers = sequences[:, start:].tolist()
        if trace is not None:  # the library's beams have none
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
        counts = self.counts
        depth = {name: counts[kind] / counts["tokens"] for name, kind in DEPTHS.items() if counts["tokens"]}
        verified = {"acceptance_rate": counts["accepted"] / counts["drafted"]} if counts["drafted"] else {}
        if counts["undrafted"]:
            verified["undrafted_rate"] = counts["undrafted"] / counts["tokens"]
        return {"policy": self.policy.describe(), "likelihood_layer": self.likelihood_layer, **depth, **verified}
