"""What the whole suite shares: seeds, a tiny random T5 with its tokenizer in a folder, and small files of examples."""

import json
import logging
import os
import random
import zlib
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config

from jobs.setup import LOGGERS
from models import DeployT5ForConditionalGeneration
from support import away_from_ties, seed_everything, tiny_gpt2, tiny_t5

pytest_plugins = ["sessions"]

# Scripts that a test starts import this checkout, whichever is installed.
SRC = str(Path(__file__).resolve().parents[1] / "src")
os.environ["PYTHONPATH"] = os.pathsep.join([SRC, *filter(None, [os.environ.get("PYTHONPATH")])])
# Which way is fast is the machine's affair, and they round differently: the library's, but where ways are tested.
os.environ["EARLY_EXIT_PRODUCTS"] = "library"


# --------------------------------------------------------------------------------------------------------------- seeds
def pytest_addoption(parser):
    parser.addoption("--real", help="Checkpoint of the tests marked real; that of real_model.sh where not given.")
    parser.addoption("--real-prompts", help="Their prompts, a .txt or .jsonl file; twelve questions where not given.")


@pytest.fixture(autouse=True)
def seeded(request):
    """Every test draws from a number of its own, made of the session's seed and the test's name."""
    own = zlib.crc32(f"{request.config.seed} {request.node.nodeid}".encode())
    seed_everything(own, getattr(request.node, "obj", None))


@pytest.fixture(autouse=True)
def loggers():
    """What a script that runs within a test settles about its own lines ends with the test."""
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def decided():
    """See `support.away_from_ties`."""
    with away_from_ties():
        yield


# -------------------------------------------------------------------------------------------------- models and examples
PLACES = ("Arden", "Brix", "Colmar", "Dover", "Elm", "Fargo")
COLOURS = ("red", "green", "blue", "white", "black")


def questions(count: int) -> list[dict]:
    """Records in SQuAD's columns; every eighth context is several times longer than the others."""
    chosen = random.Random(0)
    records = []
    for index in range(count):
        place, colour = chosen.choice(PLACES), chosen.choice(COLOURS)
        filler = " It rains there often, and the river is wide." * (30 if index % 8 == 5 else chosen.randint(0, 3))
        records.append(
            {
                "id": f"q{index}",
                "title": place,
                "question": f"What colour is the tower of {place}?",
                "context": f"{place} is a town.{filler} Its tower is {colour}.",
                "answers": {"text": [colour, f"it is {colour}"], "answer_start": [0, 0]},
            }
        )
    return records


def dialogues(count: int) -> list[dict]:
    """Records in SAMSum's columns."""
    chosen = random.Random(1)
    records = []
    for index in range(count):
        place, colour = chosen.choice(PLACES), chosen.choice(COLOURS)
        talk = f"Ann: Where are you?\nBob: In {place}. " + f"The tower is {colour}. " * chosen.randint(1, 4)
        records.append({"id": f"d{index}", "dialogue": talk, "summary": f"Bob is in {place}. The tower is {colour}."})
    return records


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with T5's special tokens: pad 0, end of sequence 1 appended, unknown 2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [record["context"] + record["question"] for record in questions(64)]
    tokenizer.train_from_iterator(texts + [record["dialogue"] for record in dialogues(64)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


@pytest.fixture(scope="session")
def tiny_t5_dir(tmp_path_factory, tiny_tokenizer) -> Path:
    """A checkpoint of a random T5 with four decoder layers, whose tokens leave at different depths."""
    config = T5Config(
        vocab_size=len(tiny_tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = DeployT5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.decoder.block.parameters():
            parameter.mul_(2)  # an untrained one would repeat a token at every depth; at 3 a rounding grows on its way
        model.shared.weight.mul_(2)
    folder = tmp_path_factory.mktemp("tiny_t5")
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_longt5_dir(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random LongT5 of four decoder layers, with dropout, that sees summaries of its source."""
    folder = tmp_path_factory.mktemp("tiny_longt5")
    special = {"vocab_size": len(tiny_tokenizer), "local_radius": 15, "global_block_size": 8, "dropout_rate": 0.1}
    tiny_t5(0, kind="longt5, global", **special).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def squad_file(tmp_path) -> Path:
    """24 questions in SQuAD's columns, as JSONL."""
    return write_jsonl(tmp_path / "squad.jsonl", questions(24))


@pytest.fixture
def dialogue_file(tmp_path) -> Path:
    """20 dialogues in SAMSum's columns, as JSONL."""
    return write_jsonl(tmp_path / "dialogues.jsonl", dialogues(20))


@pytest.fixture(scope="session")
def tiny_gpt2_dir(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random GPT-2 of four layers that never ends, with GPT-2's kind of tokenizer: one special token, none added."""
    folder = tmp_path_factory.mktemp("tiny_gpt2")
    held = tiny_tokenizer.backend_tokenizer.to_str()
    backend = Tokenizer.from_str(held)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", bos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(folder)
    model = tiny_gpt2(0, vocab_size=len(tokenizer), n_positions=128, tie_word_embeddings=True)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    return folder
