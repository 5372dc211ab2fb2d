"""Summarization: SAMSum, CNN/DailyMail, XSum, Multi-News, BigPatent, or files of a text and a summary column.

Train, evaluate or predict with a T5 that may leave its decoder early; --help lists the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -m src.run_summarization

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import SummarizationArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("summarization", model_args, data_args, training_args, additional_args)


if __name__ == "__main__":
    run_script(SummarizationArguments, main)
