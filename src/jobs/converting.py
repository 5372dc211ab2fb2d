"""A checkpoint saved anew, plain: safetensors in one dtype, with its tokenizer and chat template."""

import shutil
from pathlib import Path

import torch
from safetensors import safe_open

from jobs.loading import fit_embeddings, load_config, load_model, load_tokenizer, one_sentence
from util import ModelArguments

WEIGHTS = "model.safetensors"
# What a checkpoint of ours consists of at least.
PARTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS)
# So many times the size of the weights have to be free where they are written.
MARGIN = 1.05


def convert(model_args: ModelArguments, dtype: torch.dtype, folder: Path) -> int:
    """Save the checkpoint that `model_args` name to a folder that is there; bytes of its weights.

    Raises:
        ValueError: It cannot be read, or the folder cannot hold it; the sentence says why.
    """
    config = load_config(model_args, encoder=None)
    tokenizer = load_tokenizer(model_args)
    model = load_model(model_args, config, dtype).eval()
    fit_embeddings(model, tokenizer, model_args.model_name_or_path, training=False)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < MARGIN * size:
        raise ValueError(
            f"{folder} has room for {free / 2**20:.0f} MB, and the weights take {size / 2**20:.0f} MB in this dtype: "
            "make room, or give another folder."
        )
    ends = model.generation_config
    ends.eos_token_id = tokenizer.eos_token_id if ends.eos_token_id is None else ends.eos_token_id
    ends.pad_token_id = tokenizer.pad_token_id if ends.pad_token_id is None else ends.pad_token_id
    with one_sentence(f"{folder} cannot be written"):
        model.save_pretrained(folder, max_shard_size=2 * size + 1)
        tokenizer.save_pretrained(folder)
        # Other programs know the library's classes alone.
        config.architectures = [each.__name__ for each in type(model).__mro__ if library_class(each)][:1]
        config.dtype = dtype
        vars(config).pop("_model_name_or_path", None)
        config.save_pretrained(folder)
    return size


def library_class(each: type) -> bool:
    """Whether a class is one of the models that the library has."""
    return each.__module__.startswith("transformers.models.")


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint of ours is in a folder, with all its weights."""
    if not all((folder / name).is_file() for name in PARTS):
        return False
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:  # which compares the file's size with its header
            return bool(file.keys())
    except Exception:  # of safetensors, which share no type with the operating system's
        return False
