r"""Train, evaluate or predict summarization with a model whose tokens may leave it early.

    python src/run_summarization.py --do_eval --dataset_name invented_dialogues --source_prefix "summarize: " \
        --max_eval_samples 20 --output_dir save/dialogues --use_early_exit True --exit_conf_threshold 0.9
    python src/run_summarization.py --do_train --dataset_name invented_dialogues --source_prefix "summarize: " \
        --max_train_samples 200 --max_steps 10 --intermediate_loss_fn weighted_ce --output_dir save/dialogues_trained

Texts are those of SAMSum, CNN/DailyMail, XSum, Multi-News and BigPatent by name, of files of a text and a summary
column, or the invented dialogues above, which need no download. The model is a T5 or its kin, or one
without an encoder, such as GPT-2 or Llama, which is asked by a prompt: see --template, --n_shot and
--apply_chat_template.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import SummarizationArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("summarization", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(SummarizationArguments, main, __doc__)


if __name__ == "__main__":
    command()
