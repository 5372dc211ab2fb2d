"""Seconds of policies against each other: at batch 1, the decoder alone, all policies in turn on the same inputs."""

import time
from collections.abc import Sequence
from dataclasses import replace

from decoding.policy import Policy
from training.evaluation import decode_batch
from util import AdditionalArguments, update_autoconfig


def seconds_per_token(
    trainer, policies: Sequence[AdditionalArguments], examples: int, repetitions: int, max_answer_length: int
) -> list[dict]:
    """A dict per policy: "policy" as `Policy.describe` has it, "seconds_per_token" of each repetition, "tokens".

    Every repetition decodes the first `examples` inputs under each policy in turn; one more, before, warms up.

    Args:
        trainer: Of a job that evaluates; its model and data are used.
        max_answer_length: N of a decaying threshold.
    """
    options = replace(trainer.decoding, keep_traces=False, views=())
    found: list[dict] = [{"seconds_per_token": []} for _ in policies]
    for repetition in range(repetitions + 1):
        for row, flags in zip(found, policies, strict=True):
            update_autoconfig(trainer.model.config, flags, max_answer_length=max_answer_length)
            row["policy"] = Policy.from_config(trainer.model.config).describe()
            row["tokens"], seconds = 0, 0.0
            for feature in trainer.eval_dataset.features[:examples]:
                decoded, _, took = decode_batch(trainer.model, trainer.processing_class, [feature], options, False)
                row["tokens"] += decoded[0].length
                seconds += took["decoder_forward"]
            if repetition:
                row["seconds_per_token"].append(seconds / row["tokens"])
    return found


def relative(rows: Sequence[dict], to: dict) -> list[list[float]]:
    """How many times the seconds per token of the policy `to` each policy takes, repetition by repetition."""
    base = next(row for row in rows if row["policy"] == to)["seconds_per_token"]
    return [[own / other for own, other in zip(row["seconds_per_token"], base, strict=True)] for row in rows]


class Clock:
    """Seconds since it was made, as text."""

    def __init__(self):
        self.started = time.monotonic()

    def __str__(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"
