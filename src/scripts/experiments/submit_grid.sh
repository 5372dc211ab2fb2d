#!/bin/sh
# Submit a grid to SLURM, one job for a setting and a method over all exit_min_layers in $LAYERS:
#
#   sh src/scripts/experiments/submit_grid.sh [SETTING ...]       all four T5-large settings where none is named
#
# SBATCH_ARGS goes to every sbatch, such as SBATCH_ARGS="--partition=a100 --time=12:00:00"; METHODS names fewer methods.
# Without sbatch the jobs run here, one after the other. DRY_RUN=1 prints every command instead.
cd "$(dirname "$0")/../../.." || exit 1
. src/scripts/experiments/job.sh
methods=${METHODS:-$(awk '/^[A-Za-z]/ { print $1 }' src/scripts/experiments/methods.txt)}
[ $# -gt 0 ] || set -- squad_pretrained squad_finetuned samsum_pretrained samsum_finetuned
# shellcheck disable=SC2086
lines settings.txt "$@" && lines methods.txt $methods
for setting in "$@"; do
    for method in $methods; do
        if ! dry && command -v sbatch >/dev/null 2>&1; then
            # shellcheck disable=SC2086
            sbatch --job-name="$setting-$method" ${SBATCH_ARGS:-} src/scripts/experiments/one_method.job "$setting" "$method" || exit $?
        else
            sh src/scripts/experiments/one_method.job "$setting" "$method" || exit $?
        fi
    done
done
