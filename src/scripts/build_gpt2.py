"""Rebuild the embedded GPT-2 from nothing: its tokenizer, and the model trained on invented stories.

    python src/scripts/build_gpt2.py --out save/gpt2_stories
    python src/scripts/build_gpt2.py --layers 2 --width 32 --steps 20 --out save/gpt2_tiny

Every layer's cross entropy counts, weighted by depth, so that each is an exit. A run that is killed continues where it
last saved.
"""

from __future__ import annotations

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import copy
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2TokenizerFast

from decoding.ranges import COUNT, POSITIVE, Range
from models.modeling_causal import EarlyExitGPT2LMHeadModel
from scripts.build_assets import Cycle, Progress, store, train
from tasks.stories import invented_stories
from util import groups
from util.commands import CommandParser, output_folder
from util.terminal import terminal

VOCABULARY = 2048
END = "<|endoftext|>"
POSITIONS = 512
LENGTH = Range(f"2 to {POSITIONS}", lambda value: 2 <= value <= POSITIONS, int)
HEAD_WIDTH = 32
WIDTH = Range(f"multiples of {HEAD_WIDTH}", lambda value: value > 0 and value % HEAD_WIDTH == 0, int)
TOKENIZER_STORIES = 20_000
STORIES_PER_CHUNK = 400


def build_tokenizer() -> GPT2TokenizerFast:
    """A byte-level BPE with GPT-2's conventions: one special token, which begins, ends and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stories = (row["text"] for row in invented_stories("train", TOKENIZER_STORIES, seed=-1))
    tokenizer.train_from_iterator(stories, trainer)
    return GPT2TokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def make_config(layers: int, width: int) -> GPT2Config:
    """The small GPT-2, without dropout."""
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD_WIDTH,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def batches(tokenizer, rows: int, length: int, first_step: int) -> Iterator[dict[str, Tensor]]:
    """The endless stream of training batches from `first_step` on: stories one after the other, cut to one length.

    Step after step is made from its own seed, so that a run may continue at any of them with the same examples.
    """
    step = first_step
    while True:
        stories = [row["text"] for row in invented_stories("train", rows * 3, seed=step)]
        ids = [token for story in tokenizer(stories).input_ids for token in [0, *story]]
        while len(ids) < rows * length:
            ids += ids
        inputs = torch.tensor(ids[: rows * length]).view(rows, length)
        yield {"input_ids": inputs, "labels": inputs}
        step += 1


def make_stored_config(config: GPT2Config) -> GPT2Config:
    """The config of the finished checkpoint: nothing in it asks for training."""
    stored = copy.deepcopy(config)
    del stored.intermediate_loss_fn
    stored.architectures = ["GPT2LMHeadModel"]
    return stored


def main(argv: list[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    output, data = parser.add_argument_group(groups.OUTPUT), parser.add_argument_group(groups.DATA)
    model, run = parser.add_argument_group(groups.MODEL), parser.add_argument_group(groups.RUN)
    output.add_argument("--out", type=output_folder, default="save/gpt2_stories", help="folder of the checkpoint")
    run.add_argument("--steps", type=COUNT, default=2000, help="optimizer steps")
    data.add_argument("--rows", type=COUNT, default=8, help="texts of a batch")
    data.add_argument("--length", type=LENGTH, default=256, help="tokens of each")
    model.add_argument("--layers", type=COUNT, default=8, help="decoder layers")
    model.add_argument("--width", type=WIDTH, default=128, help="of a state")
    run.add_argument("--learning-rate", type=POSITIVE, default=2e-3, help="peak of AdamW's")
    run.add_argument("--threads", type=COUNT, default=1, help="of the CPU")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = make_config(arguments.layers, arguments.width)
    config.intermediate_loss_fn = "weighted_ce"
    model = EarlyExitGPT2LMHeadModel(config).train()
    work = arguments.out.with_name(arguments.out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    progress = Progress(work / "body.pt")
    progress.load()
    stream = batches(tokenizer, arguments.rows, arguments.length, progress.step)
    train(model, (Cycle(arguments.steps, arguments.learning_rate),), stream, progress)
    store(model, tokenizer, arguments.out, make_stored_config(model.config))
    (work / "body.pt").unlink()
    work.rmdir()
    print(f"{arguments.out} is complete.")


if __name__ == "__main__":
    with terminal():
        main()
