r"""Train a decoder-only model with exits, measure every layer's perplexity, and continue beginnings.

    python src/run_language_modeling.py --do_eval --dataset_name invented_stories --max_eval_samples 20 \
        --output_dir save/stories --use_early_exit True --exit_conf_threshold 0.9
    python src/run_language_modeling.py --do_train --dataset_name invented_stories --max_train_samples 200 \
        --max_steps 2 --intermediate_loss_fn weighted_ce --output_dir save/stories_trained

Texts are those of wikitext by name, of files, or the invented stories above, which need no download.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import LanguageModelingArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("language_modeling", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(LanguageModelingArguments, main, __doc__)


if __name__ == "__main__":
    command()
