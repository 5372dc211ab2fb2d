"""Rebuild one of the two embedded checkpoints from nothing: tokenizer, model and `meta` confidence head.

    python src/scripts/build_assets.py --exits trained --out save/t5_exits_trained
    python src/scripts/build_assets.py --exits untrained --steps 10 --more_steps 0 --meta_steps 10 --out save/t5_tiny

Both variants see the same invented examples in the same order for the same number of steps, from the same initial
weights; they differ in the loss: cross entropy of the last layer (untrained exits) or of all layers weighted by depth
(trained exits). A `meta` head is then trained on the frozen model. A run that is killed continues where it last saved.
"""

import interrupts  # noqa: F401 - before what takes time; not found? pip install -e . in the checkout

import copy
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast, T5Config

from decoding.ranges import COUNT, FROM_TWO, NATURAL, POSITIVE
from losses.layers import IGNORED_LABEL
from models.modeling_t5 import EarlyExitT5ForConditionalGeneration
from tasks.invented import invented_dialogues, invented_facts
from util import groups
from util.additional_args import flag
from util.arguments import build
from util.checks import raise_together
from util.files import folder_problem, replacing, write_json
from util.parser import ArgumentParser
from util.ranges import range_problems
from util.terminal import terminal

VOCABULARY = 4096
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")
INTERMEDIATE_LOSS = {"trained": "weighted_ce", "untrained": None}
TOKENIZER_EXAMPLES = 40_000
BATCHES_PER_CHUNK = 24
FIRST_SHARES = {"single": 0.45, "pair": 0.30, "chain": 0.25}
LATER_SHARES = {"single": 0.40, "chain": 0.30, "pair": 0.15, "short_pair": 0.15}
META_LEARNING_RATE = 2e-3
BODY_STATE, META_STATE = "body.pt", "meta.pt"
SAVE_EVERY = 120  # seconds
RANGES = {
    **dict.fromkeys(("steps", "short_steps", "facts_per_batch", "dialogues_per_batch"), COUNT),
    **dict.fromkeys(("encoder_layers", "threads"), COUNT),
    **dict.fromkeys(("more_steps", "meta_steps"), NATURAL),
    "decoder_layers": FROM_TWO,
    "learning_rate": POSITIVE,
}
REPORT_EVERY = 30  # seconds


@dataclass
class BuildArguments:
    """What to build and how long to train it."""

    _argument_group_name = groups.RUN

    exits: str = field(metadata={"help": "trained (weighted_ce over all layers) or untrained (last layer only)."})
    out: str = field(metadata={"help": "Folder of the finished checkpoint.", "group": groups.OUTPUT})
    work_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the state a killed run continues from; <out>.work where not given.",
            "group": groups.OUTPUT,
        },
    )
    steps: int = flag(2200, "Optimizer steps on two batches of questions per dialogues'.")
    more_steps: int = flag(800, "Further steps on seven batches of questions per dialogues'.")
    meta_steps: int = flag(300, "Optimizer steps of the meta head.")
    learning_rate: float = flag(2e-3, "Peak learning rate of AdamW.")
    short_steps: int = flag(900, "Steps until no passage is cut to the sentence with the answer.", group=groups.DATA)
    facts_per_batch: int = flag(48, "Questions in a batch of questions.", group=groups.DATA)
    dialogues_per_batch: int = flag(24, "Dialogues in a batch of dialogues.", group=groups.DATA)
    encoder_layers: int = flag(3, "Encoder layers.", group=groups.MODEL)
    decoder_layers: int = flag(8, "Decoder layers.", group=groups.MODEL)
    seed: int = flag(0, "Seed of the initial weights and of the examples.")
    threads: int = flag(1, "CPU threads; with 1, both variants fit side by side on two cores.")

    def __post_init__(self):
        problems = range_problems(self, **RANGES)
        if self.exits not in INTERMEDIATE_LOSS:
            problems.append(f"--exits {self.exits!r} is unknown; valid values are {', '.join(INTERMEDIATE_LOSS)}.")
        if problem := folder_problem(self.out):
            problems.append(f"--out {problem}")
        raise_together(problems)
        self.work_dir = self.work_dir or f"{self.out.rstrip('/')}.work"


# ----------------------------------------------------------------------------------------------------------- tokenizer
def tokenizer_texts() -> Iterator[str]:
    """Inputs and targets of training examples."""
    for row in invented_facts("train", TOKENIZER_EXAMPLES, seed=-1, shares=FIRST_SHARES):
        yield facts_pair(row)[0]
    for row in invented_dialogues("train", TOKENIZER_EXAMPLES, seed=-1):
        yield from dialogue_pair(row)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the invented examples."""
    return make_tokenizer(tokenizer_texts())


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with T5's conventions: pad 0, end of sequence 1 appended, unknown 2.

    A space is put before every text and taken away again by decode, so that a word has the same tokens wherever it
    stands, and decode(encode(text)) is text.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, end, unknown = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        unk_token=unknown,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


# ------------------------------------------------------------------------------------------------------------ examples
def facts_pair(row: dict) -> tuple[str, str]:
    """(input, target) of a question as the question-answering task formats it."""
    return f"question: {row['question'].lstrip()} context: {row['context'].lstrip()}", row["answers"]["text"][0]


def dialogue_pair(row: dict) -> tuple[str, str]:
    """(input, target) of a dialogue as the summarization task formats it."""
    return f"summarize: {row['dialogue']}", row["summary"]


def padded(rows: list[list[int]], filler: int) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


def collate(pairs: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask and labels of a batch of encoded pairs."""
    sources, targets = zip(*pairs, strict=True)
    return {
        "input_ids": padded(sources, 0),
        "attention_mask": padded([[1] * len(source) for source in sources], 0),
        "labels": padded(targets, IGNORED_LABEL),
    }


def chunk_of_batches(tokenizer, pairs: list[tuple[str, str]], size: int) -> list[dict[str, Tensor]]:
    """Batches of inputs of similar length."""
    sources = tokenizer([source for source, _ in pairs]).input_ids
    targets = tokenizer([target for _, target in pairs]).input_ids
    encoded = sorted(zip(sources, targets, strict=True), key=lambda pair: (len(pair[0]), len(pair[1])))
    return [collate(encoded[start : start + size]) for start in range(0, len(encoded), size)]


def short_share(step: int, none_from: int) -> float:
    """Share of the questions at this step whose passage is cut to one sentence: all in the first third, then fewer."""
    return min(1.0, max(0.0, 1.5 * (1 - step / none_from)))


def passage_shares(step: int, arguments: BuildArguments) -> dict[str, float]:
    """How often each kind of passage is made: in training more of those hard to learn than in evaluation."""
    if step < arguments.steps:
        return FIRST_SHARES
    return LATER_SHARES


def shortened(rows: list[dict], share: float, rng: random.Random) -> list[dict]:
    """The rows, of which about `share` keep nothing but the sentence that holds the answer.

    Copying a name from one sentence is learned sooner than finding the sentence, and is needed for it.
    """
    return [answer_sentence(row) if rng.random() < share else row for row in rows]


def answer_sentence(row: dict) -> dict:
    context, start = row["context"], row["answers"]["answer_start"][0]
    first = context.rfind(". ", 0, start) + 1
    last = context.find(". ", start)
    return row | {"context": context[first : last + 1 if last >= 0 else None].strip()}


def batches(tokenizer, arguments: BuildArguments, first_step: int) -> Iterator[dict[str, Tensor]]:
    """The endless stream of training batches from `first_step` on, of questions and, fewer of them, of dialogues.

    Chunk after chunk is made from its own seed, so that a run may continue at any step with the same examples.
    """
    chunk, skip = divmod(first_step, BATCHES_PER_CHUNK)
    while True:
        step = chunk * BATCHES_PER_CHUNK
        dialogues = BATCHES_PER_CHUNK // (3 if step < arguments.steps else 8)
        questions = BATCHES_PER_CHUNK - dialogues
        shares = passage_shares(step, arguments)
        facts = invented_facts("train", questions * arguments.facts_per_batch, chunk, shares)
        chats = invented_dialogues("train", dialogues * arguments.dialogues_per_batch, seed=chunk)
        facts = shortened(facts, short_share(step, arguments.short_steps), random.Random(chunk))
        made = chunk_of_batches(tokenizer, [facts_pair(row) for row in facts], arguments.facts_per_batch)
        made += chunk_of_batches(tokenizer, [dialogue_pair(row) for row in chats], arguments.dialogues_per_batch)
        order = torch.randperm(len(made), generator=torch.Generator().manual_seed(chunk))
        yield from [made[index] for index in order.tolist()][skip:]
        chunk, skip = chunk + 1, 0


# ------------------------------------------------------------------------------------------------------------ training
def make_config(arguments: BuildArguments) -> T5Config:
    """The small T5 1.0: tied embeddings, no dropout."""
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=128,
        d_kv=32,
        d_ff=512,
        num_heads=4,
        num_layers=arguments.encoder_layers,
        num_decoder_layers=arguments.decoder_layers,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )


@torch.no_grad()
def start_attention_as_copying(model) -> None:
    """Let attention begin as what it takes a small model longest to find: looking up and copying tokens.

    Half of the heads start with keys equal to queries, so that a position attends to tokens like its own; the other
    half keeps its random start, but one looks one position back and (in the encoder) one looks ahead. Values that
    cross from the encoder come out as they went in. It is a starting point only, all of it is trained (compare
    "Mimetic Initialization of Self-Attention Layers", arXiv:2305.09828). From T5's own start a model of this size had
    not begun to copy names after 700 steps; from this one it does within 300.
    """
    heads, width = model.config.num_heads, model.config.d_kv
    for name, attention in model.named_modules():
        if not name.endswith(("SelfAttention", "EncDecAttention")):
            continue
        queries, keys = (matrix.weight.view(heads, width, -1) for matrix in (attention.q, attention.k))
        queries[: heads // 2] = keys[: heads // 2] * width**-0.5  # T5 does not divide scores by the root of d_kv
        if name.endswith("EncDecAttention"):
            torch.nn.init.orthogonal_(attention.v.weight)
            attention.o.weight.copy_(attention.v.weight.T)
        if attention.has_relative_attention_bias:
            look_at_neighbours(attention.relative_attention_bias.weight, encoder=name.startswith("encoder"))


def look_at_neighbours(bias: Tensor, encoder: bool) -> None:
    """Raise the bias [buckets, heads] of one head for the token before, in the encoder of another for the one after."""
    one_back, one_ahead = 1, len(bias) // 2 + 1
    bias[one_back, -2] += 4.0
    if encoder:
        bias[one_ahead, -1] += 4.0


@dataclass(frozen=True)
class Cycle:
    """Some steps with a learning rate of their own course: warm-up, constant for three fifths, decay to a fiftieth."""

    steps: int
    peak: float

    def learning_rate(self, step: int, warmup: int = 100) -> float:
        decay = (self.steps - step) / (0.4 * self.steps)
        return self.peak * min(1.0, (step + 1) / warmup, max(0.02, decay))


def learning_rate(cycles: tuple[Cycle, ...], step: int) -> float:
    """The learning rate at a step counted over all cycles."""
    for cycle in cycles[:-1]:
        if step < cycle.steps:
            return cycle.learning_rate(step)
        step -= cycle.steps
    return cycles[-1].learning_rate(step)


@dataclass
class Progress:
    """What a killed run continues from: the phase's model and optimizers after `step` steps, and the seconds spent."""

    path: Path
    step: int = 0
    seconds: float = 0.0

    state: dict | None = None

    def load(self) -> None:
        """Read what an earlier run saved, if there was one."""
        if self.path.exists():
            self.state = torch.load(self.path, weights_only=True)
            self.step, self.seconds = self.state["step"], self.state["seconds"]

    def restore(self, model, optimizer: torch.optim.Optimizer) -> None:
        if self.state is not None:
            model.load_state_dict(self.state["model"])
            optimizer.load_state_dict(self.state["optimizer"])

    def save(self, model, optimizer: torch.optim.Optimizer, **more) -> None:
        """Write what a killed run continues from; `more` is what else `state` is to hold then."""
        state = {
            **more,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replacing(self.path) as temporary:
            torch.save(state, temporary)


def train(model, cycles: tuple[Cycle, ...], stream: Iterator[dict], progress: Progress) -> None:
    """Run the optimizer steps that `progress` still lacks, with a line of progress and a saved state now and then."""
    steps = sum(cycle.steps for cycle in cycles)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, betas=(0.9, 0.98), weight_decay=0.0)
    progress.restore(model, optimizer)
    started, losses = time.monotonic() - progress.seconds, []
    reported = saved = time.monotonic()
    while progress.step < steps:
        optimizer.param_groups[0]["lr"] = learning_rate(cycles, progress.step)
        losses.append(train_step(model, optimizer, next(stream) | {"step": progress.step, "steps": steps}))
        now = time.monotonic()
        progress.step, progress.seconds = progress.step + 1, now - started
        if now - reported > REPORT_EVERY or progress.step == steps:
            rate, mean = len(losses) / (now - reported), torch.stack(losses).mean().item()
            minutes = progress.seconds / 60
            print(f"step {progress.step}/{steps} loss {mean:.4f} {rate:.2f} steps/s {minutes:.1f} min", flush=True)
            reported, losses = now, []
        if now - saved > SAVE_EVERY or progress.step == steps:
            progress.save(model, optimizer)
            saved = now


def train_step(model, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor], dtype=torch.float32) -> Tensor:
    """One optimizer step, whose matrix products are of a dtype; the loss before it."""
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = model(**batch, use_cache=False).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return loss.detach()


def body_cycles(arguments: BuildArguments) -> tuple[Cycle, Cycle]:
    peak = arguments.learning_rate
    return Cycle(arguments.steps, peak), Cycle(arguments.more_steps, 0.5 * peak)


def train_body(arguments: BuildArguments, tokenizer, **flags) -> EarlyExitT5ForConditionalGeneration:
    """The model without its `meta` head, from the same weights whatever flags of its loss its config carries."""
    torch.manual_seed(arguments.seed)
    config = make_config(arguments)
    config.update(flags or {"intermediate_loss_fn": INTERMEDIATE_LOSS[arguments.exits]})
    model = EarlyExitT5ForConditionalGeneration(config).train()
    start_attention_as_copying(model)
    progress = Progress(Path(arguments.work_dir) / BODY_STATE)
    progress.load()
    stream = batches(tokenizer, arguments, progress.step)
    train(model, body_cycles(arguments), stream, progress)
    return model


def train_meta_head(arguments: BuildArguments, tokenizer, body) -> EarlyExitT5ForConditionalGeneration:
    """The same model with a `meta` head trained on it; nothing else changes."""
    torch.manual_seed(arguments.seed + 1)
    config = make_config(arguments)
    config.train_meta_cm_head = True
    model = EarlyExitT5ForConditionalGeneration(config).train()
    model.load_state_dict(body.state_dict(), strict=False)
    progress = Progress(Path(arguments.work_dir) / META_STATE)
    progress.load()
    # Examples the body was not trained on: on those it was, its layers agree more often.
    seen = arguments.steps + arguments.more_steps
    stream = batches(tokenizer, arguments, seen + BATCHES_PER_CHUNK + progress.step)
    train(model, (Cycle(arguments.meta_steps, META_LEARNING_RATE),), stream, progress)
    return model


# ------------------------------------------------------------------------------------------------------------- storing
def store(model, tokenizer, folder: Path, config: PretrainedConfig, dtype=torch.bfloat16) -> None:
    """Write the checkpoint with 16-bit weights and this config, which asks for float32 when it is loaded."""
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "config.json", config.to_diff_dict() | {"dtype": "float32"})
    # The library writes weights readable for their owner only.
    (folder / "model.safetensors").chmod(0o644)


def make_stored_config(config: T5Config) -> T5Config:
    """The config of a finished checkpoint: nothing in it asks for training."""
    stored = copy.deepcopy(config)
    del stored.train_meta_cm_head
    stored.has_cm_head = True
    stored.architectures = ["T5ForConditionalGeneration"]
    return stored


def main(arguments: BuildArguments) -> None:
    torch.set_num_threads(arguments.threads)
    work = Path(arguments.work_dir)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    body = train_body(arguments, tokenizer)
    model = train_meta_head(arguments, tokenizer, body)
    store(model, tokenizer, Path(arguments.out), make_stored_config(model.config))
    for name in (BODY_STATE, META_STATE):
        (work / name).unlink()
    if not any(work.iterdir()):
        work.rmdir()
    print(f"{arguments.out} is complete.")


def parse_arguments(argv: list[str] | None = None) -> BuildArguments:
    parser = ArgumentParser((BuildArguments,), __doc__)
    try:
        (arguments,) = build((BuildArguments,), parser.given(sys.argv[1:] if argv is None else argv))
    except ValueError as error:
        parser.refuse(error)
    return arguments


if __name__ == "__main__":
    with terminal():
        main(parse_arguments())
