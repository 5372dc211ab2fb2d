#!/bin/sh
#SBATCH --partition=gpu --gpus=1 --ntasks=1 --cpus-per-task=9 --time=72:00:00 --output=%x-%j.out
# Trains T5-large on SAMSum, in a way of experiments/trainings.txt: train_sum_samsum.sh CALM --seed 1.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}" 2>/dev/null && until [ -f src/scripts/experiments/job.sh ] || [ . -ef / ]; do cd ..; done
[ -f src/scripts/experiments/job.sh ] || { echo "${SLURM_SUBMIT_DIR:-$0} is not in the checkout: submit or run this job there." >&2; exit 2; }
. src/scripts/experiments/job.sh
way=${1:-plain}
[ $# -gt 0 ] && shift
train samsum "$way" "$@"
