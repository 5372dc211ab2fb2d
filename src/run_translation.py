r"""Train, evaluate or predict translation with a model whose tokens may leave it early.

    echo '{"de": "Guten Tag.", "en": "Good day."}' > /tmp/pairs.jsonl; python src/run_translation.py --do_eval \
        --validation_file /tmp/pairs.jsonl --source_lang de --target_lang en --static_exit_layer 4
    echo '{"de": "Guten Tag.", "en": "Good day."}' > /tmp/pairs.jsonl; python src/run_translation.py --do_train \
        --train_file /tmp/pairs.jsonl --source_lang de --target_lang en --eval_strategy no --max_steps 2 \
        --output_dir save/translation_trained

Pairs are those of files with a column per language or with `translation` records, or of IWSLT 2017 or Multi30k,
downloaded by name (iwslt2017-de-en, multi30k). The small model that is loaded where none is named has seen English
alone: give --model_name_or_path, of a T5 or its kin, or of a model without an encoder, such as GPT-2 or Llama,
which is asked by a prompt: see --template, --n_shot and --apply_chat_template.
"""

import interrupts  # noqa: F401 - before what takes time

from jobs.job import run_job, run_script
from util import TranslationArguments


def main(model_args, data_args, training_args, additional_args):
    """One job. Returns (trainer, metrics); see `jobs.job.run_job`."""
    return run_job("translation", model_args, data_args, training_args, additional_args)


def command() -> None:
    """The console command."""
    run_script(TranslationArguments, main, __doc__)


if __name__ == "__main__":
    command()
