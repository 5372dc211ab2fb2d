"""What every deployed model shares: a `generate` that runs the early-exit decode loop.

`generate` keeps Hugging Face's preparation (generation config, encoder, processors, criteria) and replaces its
sampling and greedy loops by `decoding.loop.decode`. Beams and other searches without exits stay Hugging Face's.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import GgufConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation import (
    EncoderNoRepeatNGramLogitsProcessor,
    EncoderRepetitionPenaltyLogitsProcessor,
    GenerateDecoderOnlyOutput,
    GenerateEncoderDecoderOutput,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteriaList,
    StopStringCriteria,
)
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutput

from decoding.acceptance import Result
from decoding.loop import decode
from decoding.policy import Policy
from decoding.search import search
from decoding.sequences import Decoding
from decoding.strategies import Strategy
from decoding.thresholds import AdaptiveThreshold
from decoding.trace import ExitTrace
from models.adapter import Adapter, effective_mask
from models.choosing import IN_FORCE
from models.hugging_face import LibraryModel
from models.lora import has_lora, merged_lora
from models.stored import refuse_spread, stored_weights

logger = logging.getLogger(__name__)

# Keyword arguments of generate that choose a search which is neither greedy nor sampling.
OTHER_SEARCHES = (
    "assistant_model",
    "prompt_lookup_num_tokens",
    "assistant_early_exit",
    "custom_generate",
    "dola_layers",
)

# Processors of the library that read what the model was given, and with it the padding of a shorter row.
SOURCE_READERS = (EncoderRepetitionPenaltyLogitsProcessor, EncoderNoRepeatNGramLogitsProcessor)
PROMPT_READERS = (NoRepeatNGramLogitsProcessor,)


@cache
def announce(sentence: str) -> None:
    """Say something once."""
    logger.warning(sentence)


@contextmanager
def without_dropout(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; every module is given back its own mode."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


class EarlyExitGeneration(LibraryModel):
    """Mixin over a Hugging Face model class. A subclass names its adapter.

    Attributes:
        adapter_class: Built once per call; see `decoding.adapter`.
        threshold: The adaptive threshold, which learns from call to call; None before the first that uses it.
    """

    adapter_class: type[Adapter]
    threshold: AdaptiveThreshold | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs):
        """The library's, of a checkpoint of this architecture: another one's weights would be left out and made anew.
        Those of a GGUF file (`gguf_file=`) are widened to the dtype; those of safetensors are read straight into their
        place (`models.stored`).

        Raises:
            ValueError: The checkpoint is another architecture's, or `device_map` names several devices.
        """
        if isinstance(config, PreTrainedConfig):
            held = config.model_type
        else:
            held = PreTrainedConfig.get_config_dict(config or pretrained_model_name_or_path, **kwargs)[0].get(
                "model_type"
            )
        own = cls.config_class.model_type
        if held not in (None, own):
            raise ValueError(
                f"{pretrained_model_name_or_path} is a {held}, but {cls.__name__} loads {own} checkpoints: "
                "models.deploying_class(config) gives the class for a config."
            )
        if kwargs.get("gguf_file") is not None:
            kwargs.setdefault("quantization_config", GgufConfig(dequantize=True))
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    @staticmethod
    def _load_pretrained_model(model, state_dict, checkpoint_files, load_config, **others):
        """What `from_pretrained`, and `load_adapter`, call once the model is there, without weights.

        The public `from_pretrained(state_dict=...)` takes no name of a checkpoint beside the weights: without one the
        library reads no generation config, and files would have to be found here by subfolder, variant and revision.
        """
        refuse_spread(load_config.device_map)
        files = checkpoint_files or ()
        plain = load_config.hf_quantizer is None and load_config.device_mesh is None  # others look into the files
        plain = plain and not is_deepspeed_zero3_enabled()
        if plain and state_dict is None and files and files[0].endswith(".safetensors"):
            state_dict = stored_weights(files)
        return PreTrainedModel._load_pretrained_model(model, state_dict, checkpoint_files, load_config, **others)

    def refuse_unsupported(self) -> None:
        """Refuse, with a ValueError, a model of this architecture that the adapter does not fit; most have none."""

    def generate(
        self,
        inputs=None,
        generation_config=None,
        logits_processor=None,
        stopping_criteria=None,
        streamer=None,
        policy: Policy | None = None,
        strategy: Strategy | None = None,
        return_trace: bool = False,
        return_logprobs: bool = False,
        return_states: bool = False,
        labels=None,
        **kwargs,
    ):
        """Generate token ids as Hugging Face's `generate` does, leaving the decoder where the policy allows.

        Args:
            inputs, generation_config, logits_processor, stopping_criteria, streamer, **kwargs: As for Hugging Face.
            policy: When tokens may leave; None takes the one in the model's config (`util.update_autoconfig`).
            strategy: Score tokens from several layers at full depth (contrastive generation), see
                `decoding.strategies`; None takes the last layer's word, or an exit's.
            return_trace: Return `(sequences, trace)`, see `decoding.trace.ExitTrace`; of a strategy a
                `decoding.search.SearchTrace`, and None where the library's own search ran.
            return_logprobs: Keep the log-probability of every emitted token in the trace.
            return_states: Keep the states of every layer that a token ran in the trace.
            labels: Ignored, so that a Trainer may pass a whole batch.

        Returns:
            Token ids [B, T], prompt or decoder start token included, right-padded; Hugging Face's output object with
            `return_dict_in_generate`.

        Raises:
            ValueError: The policy does not fit the model, or is combined with a search that cannot leave early.
        """
        policy = self._policy(policy, strategy)
        self._refuse_inputs(inputs, kwargs)
        shared = {
            "inputs": inputs,
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "streamer": streamer,
        }
        kept = {"keep_logprobs": return_logprobs, "keep_states": return_states}
        if has_lora(self):
            announce("The model's adapters are merged into its weights for the length of each call of generate.")
        with without_dropout(self), merged_lora(self):
            if self._refuse_other_search(generation_config, kwargs, policy, strategy):
                output, trace = self._library_search(shared, kwargs), None
            else:
                output, trace = self._leave_early(shared, kwargs, policy, strategy, kept)
        return (output, trace) if return_trace else output

    def _policy(self, policy: Policy | None, strategy: Strategy | None) -> Policy:
        """The policy in force: the call's, else the config's.

        Raises:
            ValueError: It is none, or does not fit the model or the strategy.
        """
        for name, value, kind in (("policy", policy, Policy), ("strategy", strategy, Strategy)):
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"generate got {name}={value!r}: valid are a {kind.__name__} and None.")
        if policy is None:
            policy = Policy.from_config(self.config)
            if policy.exits:
                announce(f"Tokens leave the decoder early, as the model's config says: {policy.describe()}")
        policy.check(self.num_exit_layers, self.get_input_embeddings().num_embeddings)
        if strategy is not None:
            strategy.check(self.num_exit_layers)
            if policy.exits:
                raise ValueError(f"The strategy {strategy.name} runs all layers: it goes without early exits.")
        return policy

    def _refuse_inputs(self, inputs, kwargs: dict) -> None:
        """Refuse inputs that hold no token, masks that do not fit them, and what the loop would not read."""
        ignored = [name for name in ("inputs_embeds", "position_ids") if kwargs.get(name) is not None]
        if ignored and not self.config.is_encoder_decoder:
            raise ValueError(f"generate got {ignored[0]}, but the decode loop embeds input_ids itself: leave it out.")
        encoded = kwargs.get("encoder_outputs")
        given = {
            "input_ids": kwargs.get("input_ids") if inputs is None else inputs,
            "inputs_embeds": kwargs.get("inputs_embeds"),
            "encoder_outputs": None if encoded is None else encoded[0],
        }
        name, source = next(((name, value) for name, value in given.items() if value is not None), (None, None))
        known = self.get_input_embeddings().num_embeddings
        for ids_name in ("input_ids", "decoder_input_ids"):
            _refuse_ids(ids_name, given[ids_name] if ids_name in given else kwargs.get(ids_name), known)
        _refuse_shape(name, source, "attention_mask", kwargs.get("attention_mask"))
        mask = effective_mask(kwargs.get("attention_mask"))
        if not self.config.is_encoder_decoder and mask is not None and bool((mask[:, -1] == 0).any()):
            announce("attention_mask hides the end of a prompt, behind which its row is continued: pad on the left.")
        prompt = kwargs.get("decoder_input_ids")
        _refuse_shape("decoder_input_ids", prompt, "decoder_attention_mask", kwargs.get("decoder_attention_mask"))

    def _refuse_other_search(self, generation_config, kwargs: dict, policy: Policy, strategy: Strategy | None) -> bool:
        """Whether the library's own search is asked for.

        Raises:
            ValueError: It is, together with a strategy or with exits.
        """
        searching = self._other_search(generation_config, kwargs)
        if searching and strategy is not None:
            raise ValueError(f"The strategy {strategy.name} has beams of its own, but {searching} was given: drop it.")
        if searching and policy.exits:
            raise ValueError(
                f"Early exits need greedy decoding or sampling, but {searching} was given: drop one of them."
            )
        return searching is not None

    def _library_search(self, shared: dict, kwargs: dict):
        if self.config.is_encoder_decoder and kwargs.get("past_key_values") is None:
            # The library sizes the cache it makes by the number of encoder layers.
            kwargs["past_key_values"] = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return super().generate(**shared, **kwargs)

    def _leave_early(self, shared: dict, kwargs: dict, policy: Policy, strategy: Strategy | None, kept: dict):
        """(what Hugging Face's generate returns, the trace) of the decode loop, or of a strategy's search."""
        streamer = shared["streamer"]
        self._take_stop_strings(shared, kwargs)
        self._refuse_missing_weights(policy)
        seconds = self._run_encoder(shared, kwargs)
        source = shared["inputs"] if shared["inputs"] is not None else kwargs.get("input_ids")
        results: list[Result] = []

        # A callable gets Hugging Face's preparation, but not the streamer, which the closure keeps, nor synced_gpus:
        # no collective runs in the loop, so ranks need not wait for each other.
        def run_loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
            settings = (model_kwargs, logits_processor, stopping_criteria, generation_config, streamer)
            self._announce_padding(logits_processor, generation_config, model_kwargs)
            if strategy is not None:
                result = self._search(input_ids, strategy, *settings)
            else:
                tokens = None if policy.first is None else self._prompts(input_ids, source, model_kwargs)
                result = self._decode(input_ids, policy, *settings, **kept, prompts=tokens or ())
            results.append(result)
            return result.sequences.clone()  # inference tensors stay inside: callers may write into what they get

        if strategy is not None and strategy.beams > 1:  # the library repeats each prompt, and masks, by it
            _set(shared, kwargs, "num_beams", strategy.beams)
        # The loop has states of its own, and the library's cache takes longer to make than a short answer.
        _set(shared, kwargs, "use_cache", False)
        sequences = super().generate(**shared, **kwargs, custom_generate=run_loop)
        result = results[0]
        if isinstance(result.trace, ExitTrace):
            result.trace.seconds.update(seconds)
        return self._as_output(sequences, result, shared["generation_config"], kwargs), result.trace

    @property
    def num_exit_layers(self) -> int:
        """Number of decoder layers L."""
        return self.adapter_class.count_layers(self.config)

    def _decode(
        self, prompt, policy, model_kwargs, processors, criteria, generation_config, streamer, **kept
    ) -> Result:
        if model_kwargs.get("past_key_values") is not None and model_kwargs["past_key_values"].get_seq_length() > 0:
            raise ValueError("generate got past_key_values, but the decode loop keeps its own cache: leave them out.")
        adapter = self.adapter_class(self, prompt, model_kwargs, generation_config.max_length)
        IN_FORCE.choose(self)
        decoding = _decoding(processors, criteria, generation_config, streamer, **kept)
        prefill = not self.config.is_encoder_decoder or prompt.shape[1] > 1
        return decode(adapter, prompt, policy, decoding, prefill, self._estimator(policy))

    def _prompts(self, prompt, source, model_kwargs: dict) -> list[torch.Tensor]:
        """The token ids that each row of the batch was given, without padding: the encoder's too where there is one.

        Args:
            prompt: What the decoder starts from, [B, P].
            source: The encoder's input, before the library repeated its rows; None where it was handed over encoded.
        """
        masks = (model_kwargs.get("attention_mask"), model_kwargs.get("decoder_attention_mask"))
        if not self.config.is_encoder_decoder:
            return _without_padding(prompt, masks[0])
        found = _without_padding(prompt, masks[1])
        if source is None:
            return found
        source = source.repeat_interleave(len(prompt) // len(source), 0)
        encoded = _without_padding(source, masks[0])
        return [torch.cat(both) for both in zip(encoded, found, strict=True)]

    def _search(self, prompt, strategy, model_kwargs, processors, criteria, generation_config, streamer) -> Result:
        if generation_config.do_sample and strategy.beams > 1:
            raise ValueError(f"do_sample draws one continuation, but {strategy.beams} beams were asked for.")
        if strategy.beams > 1 and (generation_config.num_return_sequences or 1) > 1:
            raise ValueError("A strategy's beams have one result, the best: leave num_return_sequences out.")
        adapter = self.adapter_class(self, prompt, model_kwargs, generation_config.max_length)
        IN_FORCE.choose(self)
        decoding = _decoding(processors, criteria, generation_config, streamer)
        return Result(*search(adapter, prompt, decoding, strategy))

    def _announce_padding(self, processors, generation_config, model_kwargs: dict) -> None:
        """Say once that padding counts as text for a processor that reads the prompt, as it does in the library."""
        kinds: tuple[type, ...] = SOURCE_READERS
        if not self.config.is_encoder_decoder:
            kinds += PROMPT_READERS
        if generation_config.min_length and not generation_config.min_new_tokens:
            kinds += (MinLengthLogitsProcessor,)
        readers = [type(each).__name__ for each in processors if isinstance(each, kinds)]
        if readers and effective_mask(model_kwargs.get("attention_mask")) is not None:
            announce(
                f"{', '.join(readers)} counts the padding of shorter rows as text, as in the library's generate: a row "
                "alone, or in a batch of equal lengths, may be continued otherwise."
            )

    def _estimator(self, policy: Policy) -> AdaptiveThreshold | None:
        """The adaptive threshold that lives on the model, refitted on what earlier calls saw; None where none is in
        force. Another starting threshold is another estimator."""
        if not policy.adapts:
            return None
        if self.threshold is None or self.threshold.start != policy.threshold:
            self.threshold = AdaptiveThreshold(policy.threshold)
        self.threshold.refit()
        return self.threshold

    def _run_encoder(self, shared: dict, kwargs: dict) -> dict[str, float]:
        """Run the encoder once, timed, and hand its output to Hugging Face's preparation. Seconds it took."""
        if not self.config.is_encoder_decoder or kwargs.get("encoder_outputs") is not None:
            return {"encoder_forward": 0.0}
        started = time.perf_counter()
        input_ids = kwargs.get("input_ids") if shared["inputs"] is None else shared["inputs"]
        source = {"input_ids": input_ids} if input_ids is not None else {"inputs_embeds": kwargs.get("inputs_embeds")}
        if next(iter(source.values())) is None:
            raise ValueError("generate got neither input_ids nor inputs_embeds: give the encoder's input.")
        with torch.no_grad():
            hidden = self.get_encoder()(**source, attention_mask=kwargs.get("attention_mask"))[0]
        if hidden.is_cuda and getattr(self.config, "use_synchronize", True):
            torch.cuda.synchronize(hidden.device)  # the clock is read after the encoder, not after its launch
        kwargs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden)
        return {"encoder_forward": time.perf_counter() - started}

    def _take_stop_strings(self, shared: dict, kwargs: dict) -> None:
        """Make a criterion of the stop strings, which the library forgets beside a callable."""
        tokenizer = kwargs.pop("tokenizer", None)
        held = (shared["generation_config"] or self.generation_config).stop_strings
        strings = kwargs.get("stop_strings") or held
        if not strings:
            return
        if tokenizer is None:
            raise ValueError(f"generate got stop_strings {strings!r}, which need the tokenizer: give tokenizer=.")
        _set(shared, kwargs, "stop_strings", None)
        criteria = [*(shared["stopping_criteria"] or ()), StopStringCriteria(tokenizer, strings)]
        shared["stopping_criteria"] = StoppingCriteriaList(criteria)

    def _other_search(self, generation_config, kwargs: dict) -> str | None:
        """The setting that asks for a search other than greedy or sampling, as text, or None."""
        given = [name for name in OTHER_SEARCHES if kwargs.get(name) is not None]
        if given:
            return f"{given[0]}={kwargs[given[0]]!r}"
        config = generation_config or self.generation_config
        beams = kwargs.get("num_beams") or config.num_beams or 1
        return f"num_beams={beams}" if beams > 1 else None

    def _refuse_missing_weights(self, policy: Policy) -> None:
        """The loop reads parameters, not forwards: refuse weights that are elsewhere or wrapped, before any token."""
        if getattr(self, "hf_quantizer", None) is not None:
            raise ValueError(
                "The model is quantised: early-exit decoding reads plain weights; load it in fp32, bf16 or fp16."
            )
        device = self.device
        for name, module in self.named_modules():  # one pass: it costs a share of a short answer's time
            if hasattr(module, "base_layer") and not getattr(module, "merged", False):
                raise ValueError(f"{name} carries an unmerged adapter: call merge_and_unload() before generate.")
            for parameter in module._parameters.values():
                if parameter is not None and _elsewhere(parameter, device):
                    raise ValueError(
                        f"{name} is sharded or offloaded: gather the whole model on one device before generate."
                    )
        if policy.confidence is not None and policy.measure.reads_head and getattr(self, "cm_head", None) is None:
            raise ValueError(
                "exit_conf_type 'meta' needs a trained cm_head, which this checkpoint lacks: "
                "train one with --train_meta_cm_head True."
            )

    def _as_output(self, sequences, result: Result, generation_config, kwargs):
        config = generation_config or self.generation_config
        as_dict = kwargs.get("return_dict_in_generate", config.return_dict_in_generate)
        if not as_dict:
            return sequences
        output = GenerateEncoderDecoderOutput if self.config.is_encoder_decoder else GenerateDecoderOnlyOutput
        kept: dict[str, Any] = {"scores": result.scores, "logits": result.logits}
        kept = {name: tuple(step.clone() for step in steps) or None for name, steps in kept.items()}
        return output(sequences=sequences, **kept)


def _refuse_ids(name: str, ids, known: int) -> None:
    """Refuse what is no [B, T] of token ids below `known`."""
    if ids is None:
        return
    if ids.dim() != 2 or ids.dtype not in (torch.long, torch.int):
        raise ValueError(
            f"generate got {name} of shape {list(ids.shape)} and {ids.dtype}: valid are token ids [B, T], torch.long."
        )
    outside = ids[(ids < 0) | (ids >= known)]
    if len(outside):
        raise ValueError(
            f"generate got {name} with the token {int(outside[0])}: valid are 0 to {known - 1} for this model."
        )


def _refuse_shape(name: str | None, source, mask_name: str, mask) -> None:
    """Refuse a source [B, T, ...] without a token, and a mask that is not [B, T] or hides a whole row."""
    shape = None if source is None else tuple(source.shape[:2])
    if shape is not None and 0 in shape:
        raise ValueError(f"generate got {name} of shape {list(source.shape)}: at least one row of one token is needed.")
    if shape is None or mask is None:
        return
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"generate got {mask_name} of shape {list(mask.shape)} beside {name} of shape {list(source.shape)}: "
            f"valid is {list(shape)}."
        )
    empty = (mask == 0).all(1)
    if bool(empty.any()):
        raise ValueError(
            f"generate got {mask_name} whose row {int(empty.nonzero()[0])} hides every token: leave it out."
        )


def _without_padding(ids: torch.Tensor, mask: torch.Tensor | None) -> list[torch.Tensor]:
    """Of each row of ids [B, T] those that the mask [B, T] does not hide."""
    if mask is None or mask.shape != ids.shape:
        return list(ids)
    return [row[hidden != 0] for row, hidden in zip(ids, mask, strict=True)]


def _set(shared: dict, kwargs: dict, name: str, value) -> None:
    """Set a generation setting of a call: in its generation_config where it has one, beside which the library wants
    no other, else as a keyword."""
    if shared["generation_config"] is None:
        kwargs[name] = value
        return
    kwargs.pop(name, None)
    shared["generation_config"] = copy.copy(shared["generation_config"])
    setattr(shared["generation_config"], name, value)


def _decoding(processors, criteria, generation_config, streamer, **kept) -> Decoding:
    """What Hugging Face prepared, as the loop wants it."""
    pad, ends = generation_config._pad_token_tensor, generation_config._eos_token_tensor
    return Decoding(
        max_length=generation_config.max_length,
        process=processors if len(processors) else None,
        stop=criteria,
        pad_token_id=0 if pad is None else int(pad),
        ends=() if ends is None else tuple(ends.flatten().tolist()),
        sample=bool(generation_config.do_sample),
        streamer=streamer,
        keep_scores=bool(generation_config.return_dict_in_generate and generation_config.output_scores),
        keep_logits=bool(generation_config.return_dict_in_generate and generation_config.output_logits),
        **kept,
    )


def _elsewhere(parameter: torch.nn.Parameter, device: torch.device) -> bool:
    return parameter.is_meta or hasattr(parameter, "ds_id") or parameter.device != device
