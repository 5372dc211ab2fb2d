"""Language modeling with decoder-only models: text files, wikitext by name, or invented stories.

Train exits, measure the perplexity of every layer, continue beginnings under a policy; --help lists the flags.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -m src.run_language_modeling

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import LanguageModelingArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("language_modeling", model_args, data_args, training_args, additional_args)


if __name__ == "__main__":
    run_script(LanguageModelingArguments, main)
