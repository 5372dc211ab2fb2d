"""Question answering: SQuAD, SQuAD v2, NarrativeQA, or files of their columns.

Train, evaluate or predict with a T5 that may leave its decoder early; --help lists the flags.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import QuestionAnsweringArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("question_answering", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(QuestionAnsweringArguments, main)


if __name__ == "__main__":
    command()
