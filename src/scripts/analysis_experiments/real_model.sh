#!/usr/bin/env bash
# What the layers of SmolLM2-135M-Instruct know, all of it, on a CPU; killed, it goes on by the same command:
#   TRUTHFULQA=TruthfulQA.csv TRUE_FALSE=FOLDER bash src/scripts/analysis_experiments/real_model.sh [--limit N] [--out DIR]
# TRUE_FALSE holds statements as .csv, a topic each. TRANSLATORS=FILE spares the fitting of exit translators. --limit N
# takes so many questions, and statements of a topic. DIR is save/real_analysis where not given; paths are counted from
# the repository's root.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
source src/scripts/real_steps.sh

# Every third layer: each costs a product with 49,152 words for every token that is read.
layers=(--layers 3,6,9,12,15,18,21,24,27,30)
out=save/real_analysis limit=() fitted=(--tokens 60000)
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || refuse "$1 needs a value, or is no flag: valid are --limit N and --out DIR."
    case $1 in
        --limit)
            # Fewer statements of a topic may hold too few of one label for a probe.
            [[ $2 =~ ^[1-9][0-9]{0,8}$ && $2 -ge 16 ]] || refuse "--limit $2: valid are whole numbers from 16."
            limit=(--limit "$2") fitted=(--tokens 6000 --positions 100)
            ;;
        --out) out=$2 ;;
        *) refuse "$1 is no flag of this script: valid are --limit N and --out DIR." ;;
    esac
    shift 2
done
[ -f "${TRUTHFULQA:-}" ] || refuse "TRUTHFULQA=${TRUTHFULQA:-} is no file: give the path of TruthfulQA.csv."
topics=("${TRUE_FALSE:-}"/*.csv)
[ -n "${TRUE_FALSE:-}" ] && [ -f "${topics[0]}" ] ||
    refuse "TRUE_FALSE=${TRUE_FALSE:-} is no folder of statements: give one with a .csv for each topic."
[ -z "${TRANSLATORS:-}" ] || [ -f "$TRANSLATORS" ] || refuse "TRANSLATORS=$TRANSLATORS: there is no such file."

have_model
translators=${TRANSLATORS:-$out/translators.safetensors}
[ -n "${TRANSLATORS:-}" ] || fit "$translators" "${topics[@]}" "$TRUTHFULQA" --text_column statement Question "${fitted[@]}"
paris=(--question "What is the capital of France?" --gold Paris)
[ -f "$out/lens/lens_rank.png" ] || step analysis/prompt_lens.py "${paris[@]}" --out "$out/lens"
[ -f "$out/lens_translated/lens_rank.png" ] ||
    step analysis/prompt_lens.py "${paris[@]}" --compare --exit_translators "$translators" --out "$out/lens_translated"
step analysis/entropy.py --data "$TRUTHFULQA" "${layers[@]}" "${limit[@]}" --out "$out/entropy"
step analysis/probes.py --data "${topics[@]}" "${layers[@]}" "${limit[@]}" --out "$out/probes"
step analysis/probes.py --data "${topics[@]}" "${layers[@]}" "${limit[@]}" --permute_labels True --out "$out/probes"
step run_truthfulqa.py --data "$TRUTHFULQA" "${limit[@]}" --strategies vanilla dola dola_static acd contrastive \
    --batch_size 64 --out "$out/truthfulqa"
echo "Figures and tables: $out"
