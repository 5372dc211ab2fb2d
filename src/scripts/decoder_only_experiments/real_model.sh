#!/usr/bin/env bash
# SmolLM2-135M-Instruct on tasks, on a CPU: full depth, a static exit, CALM, FREE and verified drafts in turn, on dialogues to
# be summarized, questions and translations, with 0 and 2 shots, with exits as they are and translated:
#   DATA=FOLDER bash src/scripts/decoder_only_experiments/real_model.sh [--limit N] [--out DIR]
# DATA holds dialogsum, squad and de_en, a validation.jsonl in each. TRANSLATORS=FILE spares the fitting of translators, of
# the passages of squad's last 400 questions, which are not asked. --limit N takes the first N examples of each task, 100
# where not given; more are added to those that are there. DIR is save/real_tasks where not given; paths are counted from
# the repository's root. Killed, it goes on by the same command.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
source src/scripts/real_steps.sh

out=save/real_tasks limit=100
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || refuse "$1 needs a value, or is no flag: valid are --limit N and --out DIR."
    case $1 in
        --limit)
            [[ $2 =~ ^[1-9][0-9]{0,8}$ ]] || refuse "--limit $2: valid are whole numbers from 1."
            limit=$2
            ;;
        --out) out=$2 ;;
        *) refuse "$1 is no flag of this script: valid are --limit N and --out DIR." ;;
    esac
    shift 2
done
for name in dialogsum squad de_en; do
    [ -f "${DATA:-}/$name/validation.jsonl" ] || refuse "DATA=${DATA:-} holds no $name/validation.jsonl."
done
[ -z "${TRANSLATORS:-}" ] || [ -f "$TRANSLATORS" ] || refuse "TRANSLATORS=$TRANSLATORS: there is no such file."

fitted=400 questions=$(wc -l <"$DATA/squad/validation.jsonl")
[ -n "${TRANSLATORS:-}" ] || [ $((limit + fitted)) -le "$questions" ] ||
    refuse "--limit $limit: translators are fitted on the last $fitted questions of squad, which has $((questions)): \
lower it, give more questions, or TRANSLATORS=FILE."

have_model
translators=${TRANSLATORS:-$out/translators.safetensors}
if [ -z "${TRANSLATORS:-}" ]; then
    passages=$out/passages.jsonl
    if [ -n "${DRY_RUN:-}" ]; then
        echo "tail -n $fitted '$DATA/squad/validation.jsonl' > '$passages'"
    else
        mkdir -p "$out"
        tail -n $fitted "$DATA/squad/validation.jsonl" >"$passages.part"
        cmp -s "$passages.part" "$passages" || rm -f "$translators" # of other passages
        mv "$passages.part" "$passages"
    fi
    fit "$translators" "$passages" --text_column context
fi

# Exits at two thirds and five sixths of 30 layers; an exit that is not trained is seldom right before. Drafts are
# made whether they pay or not, to show what they come to.
shallow="--use_shallow_deep True --shallow_exit_layer 25"
policies=(
    --policy "--static_exit_layer 25"
    --policy "--use_early_exit True --exit_conf_threshold 0.9 --exit_min_layer 20"
    --policy "$shallow --shallow2deep_conf_threshold 0.9"
    --policy "$shallow --shallow2deep_conf_threshold 0.5 --lossless True --num_speculations 4 --draft_always True"
)

# benchmark NAME KIND [flags]: a task with each number of shots, as the exits are and translated.
folders=() names=() failed=0
benchmark() {
    local name=$1 kind=$2 shots exits
    local data=(--validation_file "$DATA/$name/validation.jsonl" --train_file "$DATA/$name/validation.jsonl")
    shift 2
    for shots in 0 2; do
        for exits in plain translated; do
            folders+=("$out/$name-$shots-$exits") names+=("$name, $shots shots, $exits")
            translated=()
            [ $exits = plain ] || translated=(--exit_translators "$translators")
            step scripts/benchmark_task.py --task "$kind" "${data[@]}" --apply_chat_template True --n_shot $shots \
                --max_eval_samples "$limit" "$@" "${translated[@]}" "${policies[@]}" --out "$out/$name-$shots-$exits" ||
                failed=$?
        done
    done
}

benchmark dialogsum summarization --max_target_length 64
benchmark squad question_answering --max_answer_length 24
benchmark de_en translation --source_lang de --target_lang en --max_target_length 48
[ -n "${DRY_RUN:-}" ] || "$PYTHON" src/analysis/compare_benchmarks.py --runs "${folders[@]}" --names "${names[@]}" \
    --title "SmolLM2-135M-Instruct on tasks, policies in turn" --out "$out"
echo "Tables: $out"
exit $failed
