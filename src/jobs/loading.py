"""Config, tokenizer and model of a job. What cannot be used is refused in one sentence, before anything is computed."""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from models import deploying_class
from util import ModelArguments

logger = logging.getLogger(__name__)

# Missing from checkpoints of the FREE code base, whose confidence head has no biases: absent is zero.
OPTIONAL_KEYS = re.compile(r"cm_head\.\d+\.bias$")


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Any error inside becomes a ValueError: `what`, and the first line of the reason."""
    try:
        yield
    except Exception as error:  # from_pretrained raises a dozen unrelated types for a broken checkpoint
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{what}: {reason.strip().rstrip('.')}.") from error


def load_config(model_args: ModelArguments):
    """The config of the checkpoint, or --config_name's; its architecture is one that can be deployed."""
    name = model_args.config_name or model_args.model_name_or_path
    with one_sentence(f"The config of {name} cannot be read"):
        config = AutoConfig.from_pretrained(name, **_hub_options(model_args))
    deploying_class(config)
    return config


def load_tokenizer(model_args: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, or --tokenizer_name's; padding with end-of-sequence where it has no padding."""
    name = model_args.tokenizer_name or model_args.model_name_or_path
    with one_sentence(f"The tokenizer of {name} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(
            name, use_fast=model_args.use_fast_tokenizer, **_hub_options(model_args)
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(model_args: ModelArguments, config, dtype: torch.dtype):
    """The deployed model with every weight from the checkpoint; only a `cm_head` about to be trained may be new.

    Raises:
        ValueError: the checkpoint cannot be read, lacks weights, or has weights of other shapes than the config's.
    """
    name = model_args.model_name_or_path
    with one_sentence(f"The checkpoint {name} cannot be read"), _silent_library():
        model, report = deploying_class(config).from_pretrained(
            name,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **_hub_options(model_args),
        )
    if report["mismatched_keys"]:
        key, held, wanted = min(report["mismatched_keys"])
        others = len(report["mismatched_keys"]) - 1
        raise ValueError(
            f"The checkpoint {name} does not fit its config: {key} is {list(held)}, the config makes it {list(wanted)}"
            f"{f' ({others} more weights differ)' if others else ''}."
        )
    _refuse_missing(name, {key for key in report["missing_keys"] if not OPTIONAL_KEYS.search(key)}, config)
    _mention_unused(name, model)
    return model


def _refuse_missing(name: str, missing: set[str], config) -> None:
    if getattr(config, "train_meta_cm_head", None):
        missing = {key for key in missing if not key.startswith("cm_head.")}
    if not missing:
        return
    if all(key.startswith("cm_head.") for key in missing):
        raise ValueError(
            f"--exit_conf_type meta needs a trained confidence head, which {name} lacks: train one with --do_train "
            "--train_meta_cm_head True."
        )
    raise ValueError(f"The checkpoint {name} lacks weights that its config asks for: {_some(missing)}.")


def _mention_unused(name: str, model) -> None:
    usual = type(model)._keys_to_ignore_on_load_unexpected or ()
    unused = {key for key in checkpoint_keys(name) if not any(re.search(pattern, key) for pattern in usual)}
    unused -= set(model.state_dict())
    if unused:
        logger.warning("Not used of the checkpoint %s: %s.", name, _some(unused))


def checkpoint_keys(folder: str) -> Iterable[str]:
    """Names of the weights in a local checkpoint; none for one on the hub."""
    folder = Path(folder)
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            return json.loads((folder / index).read_text())["weight_map"]
    if (folder / "model.safetensors").is_file():
        with safe_open(folder / "model.safetensors", "pt") as file:
            return list(file.keys())
    if (folder / "pytorch_model.bin").is_file():
        return torch.load(folder / "pytorch_model.bin", map_location="meta", weights_only=True)
    return ()


def fit_embeddings(model, tokenizer: PreTrainedTokenizerBase, name: str, training: bool) -> None:
    """Make room for every token: by new rows where they will be trained, else not at all.

    Raises:
        ValueError: the tokenizer knows more tokens than the model, which is not going to be trained.
    """
    rows, tokens = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if tokens <= rows:
        return
    if not training:
        raise ValueError(
            f"The tokenizer knows {tokens} tokens, but {name} has embeddings for {rows}: they do not belong together."
        )
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embeddings.weight:
        raise ValueError(
            f"The tokenizer knows {tokens} tokens and {name} has {rows}; its head is not tied to its embeddings, and "
            "transformers would tie them when they grow: use the tokenizer of the checkpoint."
        )
    model.resize_token_embeddings(tokens)
    logger.info("The embeddings grew from %d to %d rows for the tokenizer.", rows, tokens)


@contextmanager
def _silent_library() -> Iterator[None]:
    """Without transformers' report of weights, of which we make one sentence."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _hub_options(model_args: ModelArguments) -> dict:
    return {"cache_dir": model_args.cache_dir, "revision": model_args.model_revision, "token": model_args.token}


def _some(names: Iterable[str], most: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
