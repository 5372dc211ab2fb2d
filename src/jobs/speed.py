"""Seconds of policies against the full model: at batch 1, the decoder alone, all in turn on the same inputs."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from decoding.policy import Policy
from jobs.job import Job
from training.evaluation import decode_batch
from util import AdditionalArguments, update_autoconfig
from util.files import read_json, write_json


class Speeds:
    """speed.json: the seconds of a job's policies, timed when first asked for and written at once.

    Args:
        job: That evaluates; its model and data are used.
        path: Of the file; what it holds of other sizes than these is timed anew.
        examples, repetitions: Of the timing.
    """

    def __init__(self, job: Job, path: Path, examples: int, repetitions: int):
        self.job, self.path = job, path
        self.settings = {"examples": examples, "repetitions": repetitions, "batch": 1}
        _, self.model = job.model_source()
        held = read_json(path) if path.is_file() else {}
        same = held.get("settings") == self.settings and held.get("model_fingerprint", self.model) == self.model
        self.rows = [row for row in held["policies"] if "relative" in row] if same else []

    def of(self, policies: Sequence[AdditionalArguments]) -> list[dict]:
        """The row of each policy, see `seconds_per_token`; those that the file has not are timed now, in turn."""
        names = [_take(self.job.trainer, flags, self._limit) for flags in policies]
        held = [row["policy"] for row in self.rows]
        missing = [flags for flags, name in zip(policies, names, strict=True) if name not in held]
        if missing:
            sizes = self.settings
            timed = seconds_per_token(self.job.trainer, missing, sizes["examples"], sizes["repetitions"], self._limit)
            self.rows += [row for row in timed if row["policy"] not in held]
            name = Path(self.job.model_args.model_name_or_path).name
            timed = {"task": self.job.task.name, "model": name, "model_fingerprint": self.model}
            write_json(self.path, {"settings": sizes, **timed, "policies": self.rows})
        return [next(row for row in self.rows if row["policy"] == name) for name in names]

    @property
    def _limit(self) -> int:
        return getattr(self.job.data_args, self.job.task.kind.target_limit)


def seconds_per_token(
    trainer, policies: Sequence[AdditionalArguments], examples: int, repetitions: int, max_answer_length: int
) -> list[dict]:
    """A dict per policy: "policy" as `Policy.describe` has it, "tokens", and of each repetition "seconds_per_token" and
    "relative", how many times the full model's.

    Every repetition decodes the first `examples` inputs under each policy in turn; one more, before, warms up. The full
    model is timed first where it is none of the policies.

    Args:
        trainer: Of a job that evaluates; its model and data are used.
        max_answer_length: N of a decaying threshold.
    """
    options = replace(trainer.decoding, keep_traces=False, views=())
    policies = list(policies)
    full = next((i for i, flags in enumerate(policies) if not Policy.from_config(flags).exits), None)
    if full is None:
        full, policies = 0, [AdditionalArguments(), *policies]
    found: list[dict] = [{"seconds_per_token": []} for _ in policies]
    for repetition in range(repetitions + 1):
        for row, flags in zip(found, policies, strict=True):
            row["policy"] = _take(trainer, flags, max_answer_length)
            trainer.model.threshold = None  # an adaptive one begins anew
            row["tokens"], seconds = 0, 0.0
            for feature in trainer.eval_dataset.features[:examples]:
                decoded, _, took = decode_batch(trainer.model, trainer.processing_class, [feature], options, False)
                row["tokens"] += decoded[0].length
                seconds += took["decoder_forward"]
            if repetition:
                row["seconds_per_token"].append(seconds / row["tokens"])
    whole = found[full]["seconds_per_token"]
    for row in found:
        row["relative"] = [own / base for own, base in zip(row["seconds_per_token"], whole, strict=True)]
    return found


def _take(trainer, flags: AdditionalArguments, max_answer_length: int) -> dict:
    """Let the trainer's model decode under these flags; the policy, described."""
    update_autoconfig(trainer.model.config, flags, max_answer_length=max_answer_length)
    return Policy.from_config(trainer.model.config).describe()


class Clock:
    """Seconds since it was made, as text."""

    def __init__(self):
        self.started = time.monotonic()

    def __str__(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"
