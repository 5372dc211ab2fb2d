r"""Train, evaluate or predict question answering with a model whose tokens may leave it early.

    python src/run_question_answering.py --do_eval --dataset_name invented_facts --max_eval_samples 20 \
        --output_dir save/facts --use_early_exit True --exit_conf_type softmax --exit_conf_threshold 0.9
    python src/run_question_answering.py --do_train --dataset_name invented_facts --max_train_samples 200 \
        --max_steps 10 --intermediate_loss_fn weighted_ce --output_dir save/facts_trained

Questions are those of SQuAD, SQuAD v2 and NarrativeQA by name, of files of their columns, or the invented ones above,
which need no download. The model is a T5 or its kin, or one without an encoder, such as GPT-2 or Llama, which is asked
by a prompt: see --template, --n_shot and --apply_chat_template.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import QuestionAnsweringArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("question_answering", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(QuestionAnsweringArguments, main, __doc__)


if __name__ == "__main__":
    command()
