"""Config, tokenizer and model of a job. What cannot be used is refused in one sentence, before anything is computed."""

import json
import logging
import pickle
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.integrations.gguf import read_gguf_metadata
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils import logging as transformers_logging

from decoding.frequent import vocabulary_digest
from decoding.policy import Policy
from jobs.adapters import find_adapters, hub_options
from jobs.memory import Rows, check_room, needs
from models import deploying_class
from models.adjacent import move_all_together
from models.choosing import IN_FORCE
from models.lora import merge_lora
from models.translators import attach_translators, load_translators
from tasks.chats import rendered
from tasks.features import special_ids
from training.reporting import only_our_bars
from util import ModelArguments
from util.files import read_json
from util.gguf import is_gguf, parted
from util.runs import fingerprint_model, named_file

logger = logging.getLogger(__name__)

# Missing from checkpoints of the FREE code base, whose confidence head has no biases: absent is zero.
OPTIONAL_KEYS = re.compile(r"cm_head\.\d+\.bias$")
# What safetensors calls the dtypes of weights.
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
# Of the library's search for a file: it may be missing.
QUIETLY = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
# `decoder.block.3.` of a weight's name, and the stack of layers in it.
LAYER = re.compile(r"(.+?)\.\d+\.")


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Any error inside becomes a ValueError: `what`, and the first line of the reason, with the next after a colon."""
    try:
        yield
    except pickle.UnpicklingError as error:  # its advice is to load without weights_only
        raise ValueError(f"{what}: it holds other things than tensors, and a pickle can run code.") from error
    except Exception as error:  # from_pretrained raises a dozen unrelated types for a broken checkpoint
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise ValueError(f"{what}: {reason.rstrip('.,:')}.") from error


def load_config(model_args: ModelArguments, encoder: bool | None = True):
    """The config of the checkpoint, or --config_name's; its architecture is one that can be deployed.

    Args:
        encoder: Whether the model has to have one; None takes both kinds.
    """
    IN_FORCE.use(model_args.products or IN_FORCE.given)
    adapters = find_adapters(model_args)
    if adapters is not None:
        config = load_config(adapters.base_arguments(model_args), encoder)
        config.has_cm_head = "cm_head" in adapters.whole or getattr(config, "has_cm_head", None)
        return config
    name = model_args.config_name or model_args.model_name_or_path
    if is_gguf(name):
        gguf_header(name, model_args)
    if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ValueError(f"{name} is no checkpoint: it has no config.json.")
    kind = "is a GGUF file of no kind that transformers reads, or was cut short"
    with one_sentence(f"{name} {kind}" if is_gguf(name) else f"The config of {name} cannot be read"):
        config = AutoConfig.from_pretrained(**_source(name), **hub_options(model_args))
    deploying_class(config)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(
            f"{name} is quantised: early-exit decoding reads plain weights; give a checkpoint in fp32, bf16 or fp16."
        )
    if encoder is not None and config.is_encoder_decoder != encoder:
        wanted = "an encoder and a decoder, such as t5 or mt5" if encoder else "a decoder alone, such as gpt2 or llama"
        raise ValueError(f"{name} is a {config.model_type}: this script needs {wanted}.")
    return config


def gguf_header(name: str, model_args: ModelArguments) -> tuple[dict, tuple[str, ...]]:
    """Metadata of a GGUF file, its long lists as their lengths, and the names of its weights.

    Raises:
        ValueError: It is not there, broken, or scales its rotary positions, which the library would leave out.
    """
    folder, file = parted(name)
    with one_sentence(f"{name} is not there"):
        path = cached_file(folder, file, **hub_options(model_args))
    with one_sentence(f"{name} is no GGUF file, or was cut short"):
        metadata, weights = read_gguf_metadata(path)
    kind = metadata.get(f"{metadata['general.architecture']}.rope.scaling.type", "none")
    if kind != "none" or "rope_freqs.weight" in weights:
        raise ValueError(
            f"{name} scales its rotary positions, which transformers does not read from a GGUF file: give the "
            "checkpoint in safetensors."
        )
    return metadata, weights


def load_tokenizer(model_args: ModelArguments) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, or --tokenizer_name's; padding with end-of-sequence where it has no padding.

    Raises:
        ValueError: it cannot be read, or knows no text: transformers makes an empty one of a folder without its files.
    """
    adapters = find_adapters(model_args)
    if adapters is not None and not adapters.has_tokenizer and model_args.tokenizer_name is None:
        return load_tokenizer(adapters.base_arguments(model_args))
    name = model_args.tokenizer_name or model_args.model_name_or_path
    with one_sentence(f"The tokenizer of {name} cannot be read"):
        tokenizer = AutoTokenizer.from_pretrained(
            **_source(name), use_fast=model_args.use_fast_tokenizer, **hub_options(model_args)
        )
        if is_gguf(name):
            tokenizer = _without_more(tokenizer, gguf_header(name, model_args)[0]["tokenizer.ggml.tokens"])
        text = tokenizer.decode(tokenizer("the")["input_ids"], skip_special_tokens=True)
    if not text.strip():
        files = " or ".join(sorted(tokenizer.vocab_files_names.values()))
        raise ValueError(f"The tokenizer of {name} has no vocabulary ({files}): give --tokenizer_name.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_policy(policy: Policy, config, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse, with a ValueError, a policy that does not fit the model of this config, or counts another's tokens."""
    depth = deploying_class(config).adapter_class.count_layers(config)
    asks = policy.pruning is not None and policy.pruning.check is not None
    vocabulary = vocabulary_digest(tokenizer.get_vocab()) if asks else None
    policy.check(depth, getattr(config, "vocab_size", None), vocabulary)


def _without_more(tokenizer: PreTrainedTokenizerBase, size: int) -> PreTrainedTokenizerBase:
    """A tokenizer without tokens beyond the `size` of its GGUF file: the library gives one of GPT-2's kind an
    <|endoftext|> where it has none, and the model has no row for it."""
    if len(tokenizer) <= size:
        return tokenizer
    held = json.loads(tokenizer.backend_tokenizer.to_str())
    held["added_tokens"] = [token for token in held["added_tokens"] if token["id"] < size]
    known = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    known = {name: token for name, token in known.items() if tokenizer.convert_tokens_to_ids(token) < size}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(held)),
        chat_template=tokenizer.chat_template,
        name_or_path=tokenizer.name_or_path,
        **known,
    )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of a prompt; of one without tokens the token a text begins with, or that parts one from the next.

    Raises:
        ValueError: The tokenizer has neither.
    """
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not ids and start is None:
        raise ValueError("An empty prompt needs a token to begin with, which this tokenizer has not.")
    return ids or [start]


def as_prompt(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """A question as the model was taught to read one; as it is where there is no chat template. What the tokenizer puts
    before a text by itself is left out."""
    if tokenizer.chat_template is None:
        return question
    text = rendered(tokenizer, [{"role": "user", "content": question}])
    return text.removeprefix(tokenizer.decode(special_ids(tokenizer)[0]))


def load_model(
    model_args: ModelArguments,
    config,
    dtype: torch.dtype,
    keep_adapters: bool = False,
    device: torch.device | None = None,
    rows: Rows | None = None,
):
    """The deployed model with every weight from the checkpoint, but for exit translators of a file of their own; only a
    `cm_head` about to be trained may be new.

    Args:
        keep_adapters: Leave adapters of a checkpoint beside the weights, to be trained on; otherwise they are merged.
        device: Where it goes, straight from the checkpoint; None leaves it on the CPU, for whoever moves it.
        rows: What will be computed together on the device, which is said where it has no room for that.

    Raises:
        ValueError: the checkpoint cannot be read, or its weights are fewer, of other shapes, or of more layers than
            the config's; or the translators are another model's; or the device has no room for the weights.
    """
    if device is not None:
        with one_sentence(f"The checkpoint {model_args.model_name_or_path} cannot be read"), _silent_library():
            needed = needs(config, dtype, rows)
        check_room(model_args.model_name_or_path, needed, dtype, device, rows)
    model = _load_checkpoint(model_args, config, dtype, keep_adapters, device)
    if device is not None:
        model.to(device)
    if model_args.exit_translators is not None:
        attach_translators(model, load_translators(model_args.exit_translators, model))
    return model


def load_for_decoding(
    model_args: ModelArguments, dtype: torch.dtype, device: str = "cpu", encoder: bool | None = None
) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """The deployed model, its weights side by side as it decodes, and its tokenizer; see `load_config`, `load_model`.

    Raises:
        ValueError: They cannot be used.
    """
    config, tokenizer = load_config(model_args, encoder), load_tokenizer(model_args)
    model = load_model(model_args, config, dtype, device=torch.device(device)).eval()
    fit_embeddings(model, tokenizer, model_args.model_name_or_path, training=False)
    move_all_together(model)
    return model, tokenizer


def model_settings(model_args: ModelArguments, model) -> dict:
    """What stands for a model in the settings of what it made: name, content, tokenizer and translators of a file."""
    folder = Path(model_args.model_name_or_path)
    settings = {
        "model": folder.resolve().name if folder.exists() else str(folder),
        "fingerprint": fingerprint_model(folder) if folder.exists() else model.config._commit_hash,
        "names": [model_args.config_name, model_args.tokenizer_name],
    }
    if model_args.exit_translators is not None:
        settings["exit_translators"] = named_file(model_args.exit_translators)
    return settings


def _load_checkpoint(
    model_args: ModelArguments, config, dtype: torch.dtype, keep_adapters: bool, device: torch.device | None
):
    """The model of a checkpoint, of whole weights or of adapters alone, as `load_model` has it; adapters meet their
    weights on the CPU."""
    adapters = find_adapters(model_args)
    if adapters is None:
        return _load_weights(model_args, config, dtype, device=device)
    model = _load_weights(adapters.base_arguments(model_args), config, dtype, adapters.whole)
    with one_sentence(f"The adapters of {adapters.name} cannot be read"):
        adapters.load_into(model, model_args)
    if not keep_adapters:
        merge_lora(model)
        logger.warning("The adapters of %s are merged into the weights of %s.", adapters.name, adapters.base)
    return model


def _load_weights(
    model_args: ModelArguments,
    config,
    dtype: torch.dtype,
    brought: Iterable[str] = (),
    device: torch.device | None = None,
):
    """The same of a checkpoint of whole weights.

    Args:
        brought: Modules whose weights come from elsewhere.
    """
    name = model_args.model_name_or_path
    straight = {} if device is None or device.type == "cpu" else {"device_map": {"": device}}
    only_our_bars()
    with one_sentence(f"The checkpoint {name} cannot be read"), _silent_library():
        model, report = deploying_class(config).from_pretrained(
            **_source(name),
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report
            **straight,
            **hub_options(model_args),
        )
    model.stored_dtypes = _stored_dtypes(name, model_args)
    if report["mismatched_keys"]:
        key, held, wanted = min(report["mismatched_keys"])
        others = len(report["mismatched_keys"]) - 1
        raise ValueError(
            f"The checkpoint {name} does not fit its config: {key} is {list(held)}, the config makes it {list(wanted)}"
            f"{f' ({others} more weights differ)' if others else ''}."
        )
    missing = {key for key in report["missing_keys"] if not OPTIONAL_KEYS.search(key)}
    _refuse_missing(name, {key for key in missing if key.split(".")[0] not in brought}, config)
    unused = report["unexpected_keys"]
    _refuse_deeper(name, unused, model)
    if unused:
        logger.warning("Not used of the checkpoint %s: %s.", name, _some(unused))
    return model


def _stored_dtypes(name: str, model_args: ModelArguments) -> dict[str, torch.dtype]:
    """Name -> dtype of the weights in the files of safetensors of a checkpoint, if it has any."""

    def find(file: str) -> str | None:
        return None if is_gguf(name) else cached_file(name, file, **hub_options(model_args), **QUIETLY)

    index = find(SAFE_WEIGHTS_INDEX_NAME)
    files = [SAFE_WEIGHTS_NAME] if index is None else sorted({*read_json(index)["weight_map"].values()})
    found: dict[str, str] = {}
    for path in filter(None, map(find, files)):
        with safe_open(path, framework="pt") as weights:
            found |= {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118 - it is no dict
    return {key: FLOATS[dtype] for key, dtype in found.items() if dtype in FLOATS}


def _refuse_missing(name: str, missing: set[str], config) -> None:
    if getattr(config, "train_meta_cm_head", None):
        missing = {key for key in missing if not key.startswith("cm_head.")}
    if not missing:
        return
    if all(key.startswith("cm_head.") for key in missing):
        flag = "shallow2deep_conf_type" if getattr(config, "use_shallow_deep", None) else "exit_conf_type"
        raise ValueError(
            f"--{flag} meta needs a trained confidence head, which {name} lacks: train one with --do_train "
            "--train_meta_cm_head True."
        )
    raise ValueError(f"The checkpoint {name} lacks weights that its config asks for: {_some(missing)}.")


def _refuse_deeper(name: str, unused: Iterable[str], model) -> None:
    """Refuses weights of layers that come after the last of the model."""
    stacks = {match[0]: match[1] for match in map(LAYER.match, model.state_dict()) if match}
    found = [match for match in map(LAYER.match, unused) if match]
    deeper = [match.string for match in found if match[1] in stacks.values() and match[0] not in stacks]
    if deeper:
        raise ValueError(f"The checkpoint {name} has more layers than its config: {_some(deeper)}.")


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


def refuse_long_blocks(config, size: int) -> None:
    """Refuse blocks longer than the texts the model was made for."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and size > longest:
        raise ValueError(f"--block_size is {size}, but the model was made for {longest} tokens: lower it.")


def refuse_long_rows(config, rows: Dataset, what: str) -> None:
    """Refuse rows of tokens, `what` in words, longer than the texts the model was made for."""
    longest, most = getattr(config, "max_position_embeddings", None), max(map(len, rows["input_ids"]))
    if longest is not None and most > longest:
        raise ValueError(f"{what} has {most} tokens with its prompt, but the model was made for {longest}.")


@contextmanager
def _silent_library() -> Iterator[None]:
    """Without transformers' report of weights, of which we make one sentence."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def _source(name: str) -> dict[str, str]:
    """What from_pretrained finds a checkpoint of this name by."""
    folder, file = parted(name)
    return {"pretrained_model_name_or_path": folder} | ({} if file is None else {"gguf_file": file})


def _some(names: Iterable[str], most: int = 4) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
