"""Summarization: SAMSum, CNN/DailyMail, XSum, Multi-News, BigPatent, or files of a text and a summary column.

Train, evaluate or predict with a T5 that may leave its decoder early; --help lists the flags.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import SummarizationArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("summarization", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(SummarizationArguments, main)


if __name__ == "__main__":
    command()
