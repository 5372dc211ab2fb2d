#!/bin/sh
#SBATCH --partition=gpu --gpus=1 --ntasks=1 --cpus-per-task=9 --time=08:00:00 --output=%x-%j.out
# BigPatent, LongT5, under a method of experiments/methods.txt: run_sum_bigpatent.sh softmax --exit_min_layer 3.
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}" 2>/dev/null && until [ -f src/scripts/experiments/job.sh ] || [ . -ef / ]; do cd ..; done
[ -f src/scripts/experiments/job.sh ] || { echo "${SLURM_SUBMIT_DIR:-$0} is not in the checkout: submit or run this job there." >&2; exit 2; }
. src/scripts/experiments/job.sh
method=${1:-full}
[ $# -gt 0 ] && shift
run bigpatent_longt5 "$method" "$@"
