#!/bin/sh
#SBATCH --partition=gpu --gpus=1 --ntasks=1 --cpus-per-task=9 --time=08:00:00 --output=%x-%j.out
# Rank and confidence of every layer (figures 2 to 4), both tasks, both models.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}" 2>/dev/null && until [ -f src/scripts/experiments/job.sh ] || [ . -ef / ]; do cd ..; done
[ -f src/scripts/experiments/job.sh ] || { echo "${SLURM_SUBMIT_DIR:-$0} is not in the checkout: submit or run this job there." >&2; exit 2; }
. src/scripts/experiments/job.sh
for setting in samsum_pretrained samsum_finetuned squad_finetuned squad_pretrained; do
    run "$setting" full --plotting_logits True "$@"
done
