r"""Complete prompts, such as those of HumanEval, with a model without an encoder whose tokens may leave early.

    echo '{"task_id": "a/0", "prompt": "Once upon a time"}' > /tmp/prompts.jsonl; python src/run_completion.py \
        --do_predict --test_file /tmp/prompts.jsonl --max_completion_length 20 --use_early_exit True
    python src/run_completion.py --do_predict --dataset_name humaneval --model_name_or_path Qwen/Qwen2.5-Coder-0.5B \
        --output_dir save/humaneval --use_early_exit True --exit_conf_threshold 0.9 --lossless True

Prompts are those of HumanEval by name, or of files with the columns task_id and prompt. completions.jsonl in the run's
folder is what HumanEval's own evaluation reads, which runs it: do that in a sandbox. Nothing here runs what was
written. With --solution_column it also trains.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import CompletionArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("completion", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(CompletionArguments, main, __doc__)


if __name__ == "__main__":
    command()
