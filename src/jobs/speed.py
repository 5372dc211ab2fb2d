"""Seconds of policies against the full model: at batch 1, the decoder alone, all in turn on the same inputs."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from decoding.policy import Policy
from jobs.job import Job
from training.evaluation import decode_batch
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

    def of(self, policies: Sequence[Policy]) -> list[dict]:
        """The row of each policy, see `seconds_per_token`; those that the file has not are timed now, in turn."""
        names = [policy.describe() for policy in policies]
        held = [row["policy"] for row in self.rows]
        missing = [policy for policy, name in zip(policies, names, strict=True) if name not in held]
        if missing:
            sizes = self.settings
            timed = seconds_per_token(self.job.trainer, missing, sizes["examples"], sizes["repetitions"])
            self.rows += [row for row in timed if row["policy"] not in held]
            name = Path(self.job.model_args.model_name_or_path).name
            timed = {"task": self.job.task.name, "model": name, "model_fingerprint": self.model}
            write_json(self.path, {"settings": sizes, **timed, "policies": self.rows})
        return [next(row for row in self.rows if row["policy"] == name) for name in names]


def seconds_per_token(trainer, policies: Sequence[Policy], examples: int, repetitions: int) -> list[dict]:
    """A dict per policy: "policy" as `Policy.describe` has it, "tokens", and of each repetition "seconds_per_token" and
    "relative", how many times the full model's.

    Every repetition decodes the first `examples` inputs under each policy in turn; one more, before, warms up. The full
    model is timed first where it is none of the policies.

    Args:
        trainer: Of a job that evaluates; its model and data are used.
    """
    options = replace(trainer.decoding, keep_traces=False, views=())
    policies = list(policies)
    full = next((i for i, policy in enumerate(policies) if not policy.exits), None)
    if full is None:
        full, policies = 0, [Policy(), *policies]
    found: list[dict] = [{"policy": policy.describe(), "seconds_per_token": []} for policy in policies]
    for repetition in range(repetitions + 1):
        for row, policy in zip(found, policies, strict=True):
            under = replace(options, policy=policy)
            trainer.model.threshold = None  # an adaptive one begins anew
            row["tokens"], seconds = 0, 0.0
            for feature in trainer.eval_dataset.features[:examples]:
                decoded, _, took = decode_batch(trainer.model, trainer.processing_class, [feature], under, False)
                row["tokens"] += decoded[0].length
                seconds += took["decoder_forward"]
            if repetition:
                row["seconds_per_token"].append(seconds / row["tokens"])
    whole = found[full]["seconds_per_token"]
    for row in found:
        row["relative"] = [own / base for own, base in zip(row["seconds_per_token"], whole, strict=True)]
    return found


class Clock:
    """Seconds since it was made, as text."""

    def __init__(self):
        self.started = time.monotonic()

    def __str__(self) -> str:
        seconds = int(time.monotonic() - self.started)
        return f"{seconds // 60}:{seconds % 60:02d}"
