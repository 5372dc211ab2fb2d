# Sourced by job files from the repository's root. Works under sbatch, srun and plain sh, with modules or without.
#
#   run SETTING METHOD [flags]     one run: a line of settings.txt, a line of methods.txt, and any further flag
#   train TASK WAY [flags]         one training: a line of trained_tasks.txt, a line of trainings.txt, and any further flag
#   sweep SETTING METHOD [flags]   the same for every first exit in $LAYERS; complete runs are not repeated
#   analyse NAME [flags]           a script of src/analysis, of the model $LLAMA
#   launch SCRIPT [flags]          a script of src
#   spread                         what follows runs in a process for each GPU of the allocation, on all of its nodes
#   every_task METHOD [flags]      one exit, after a quarter of the decoder or $SHALLOW layers, on every task in $SETTINGS
#   benchmark SETTING [flags]      scripts/benchmark_task.py on the model and the data of a line of settings.txt
#   drafts SETTING [flags]         scripts/sweep_drafts.py on them
#   measure [benchmark|drafts] [flags]  either of them on every line in $SETTINGS, with exits at $LAYER and $EXIT_LAYERS, in bfloat16
#
# From the environment: MODULES to load, such as "2022 Anaconda3/2022.05"; PYTHON; SAVE, the folder of results;
# LAYERS; SETTINGS; SHALLOW; LLAMA, a model; LAUNCHER, such as "torchrun --nproc_per_node 4". DRY_RUN=1 prints the
# commands and runs nothing.
#
# In an allocation of SLURM a command that ends with 75 (REQUEUE of the module interrupts) was told to leave, saved, and is
# to be continued by the same command: the job is requeued, at most $REQUEUES times (100). #SBATCH --signal=B:USR1@120
# has it told so two minutes before its time is over. Where SIGTERM comes, somebody cancelled the job, or the scheduler
# takes the node for another and itself requeues what has --requeue.

LAYERS=${LAYERS:-"2 4 6 8 10 12 15 17 18 19 20 22"}
SETTINGS=${SETTINGS:-"squad_finetuned samsum_finetuned cnndm_pretrained multinews_longt5 bigpatent_longt5 iwslt_mt5"}
LLAMA=${LLAMA:-meta-llama/Llama-2-7b-chat-hf}
SAVE=${SAVE:-save}
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi
if [ -n "${MODULES:-}" ] && command -v module >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    module load $MODULES
fi
if [ -z "${LAUNCHER:-}" ]; then
    LAUNCHER=$PYTHON
    if [ -n "${SLURM_JOB_ID:-}" ] && command -v srun >/dev/null 2>&1; then LAUNCHER="srun $PYTHON"; fi
fi

# line FILE NAME: what follows NAME on its line; a sentence and exit code 2 where there is none.
line() {
    awk -v name="$2" '$1 == name { sub(/^[^ ]+ */, ""); print; found = 1 } END { exit !found }' \
        "src/scripts/experiments/$1" && return
    names=$(awk '/^[A-Za-z]/ { printf "%s%s", comma, $1; comma = ", " }' "src/scripts/experiments/$1")
    echo "$2 is no line of src/scripts/experiments/$1: valid are $names." >&2
    exit 2
}

# lines FILE NAME...: whether every NAME has a line; it ends as `line` does at the first that has none.
lines() {
    file=$1
    shift
    for name in "$@"; do line "$file" "$name" >/dev/null || exit 2; done
}

# dry: whether commands are only printed.
dry() {
    case ${DRY_RUN:-} in
        '' | 0 | [Nn][Oo] | [Ff][Aa][Ll][Ss][Ee]) return 1 ;;
    esac
}

# exit_flag METHOD: the flag of its first exit.
exit_flag() {
    flags=$(line methods.txt "$1") || exit 2
    case $flags in
        *--use_shallow_deep*) echo --shallow_exit_layer ;;
        *) echo --exit_min_layer ;;
    esac
}

run() { start settings.txt methods.txt "--do_eval" "$SAVE/$1" "$@"; }

train() { start trained_tasks.txt trainings.txt "--do_train --do_eval" "$SAVE/$1_$2" "$@"; }

# start FILE FILE STAGES OUTPUT NAME NAME [flags]: a line of each file, as one command.
start() {
    setting=$(line "$1" "$5") || exit 2
    method=$(line "$2" "$6") || exit 2
    stages=$3 output=$4
    shift 6
    script=${setting%% *}
    # The tables quote a value with spaces as a shell does.
    eval "launch \"\$script\" ${setting#* } $method $stages --output_dir \"\$output\" \"\$@\""
}

# launch SCRIPT [flags]: a script of src.
launch() {
    script=$1
    shift
    if dry; then
        printf '%s' "$LAUNCHER src/$script"
        for word in "$@"; do printf " '%s'" "$word"; done
        printf '\n'
        return
    fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        watch_over "$script" "$@"
        return
    fi
    # shellcheck disable=SC2086
    $LAUNCHER "src/$script" "$@" || exit $?
}

# watch_over SCRIPT [flags]: the same under SLURM, whose signals this shell gets and hands on.
watch_over() {
    script=$1 child='' told=''
    shift
    trap 'tell USR1' USR1
    trap 'tell TERM' TERM
    # shellcheck disable=SC2086
    $LAUNCHER "src/$script" "$@" &
    child=$!
    [ -z "$told" ] || kill -s "$told" "$child"
    code=0
    wait "$child" || code=$?
    while [ "$code" -gt 128 ] && kill -0 "$child" 2>/dev/null; do # a signal ended the waiting alone
        code=0
        wait "$child" || code=$?
    done
    [ "$code" -eq 0 ] && return
    if [ "$told" != TERM ] && { [ "$code" -eq 75 ] || [ "$told" = USR1 ]; }; then requeue; fi
    exit "$code"
}

# tell SIGNAL: hand it on to what runs.
tell() {
    told=$1
    [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null || true
}

# requeue: have SLURM start this job again.
requeue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${REQUEUES:-100}" ]; then
        echo "Job $SLURM_JOB_ID was started ${SLURM_RESTART_COUNT:-0} times again, and is not requeued any more." >&2
        return
    fi
    echo "Job $SLURM_JOB_ID is requeued, and goes on where it was." >&2
    scontrol requeue "$SLURM_JOB_ID"
}

# spread: a process for each GPU of the allocation ($PROCESSES a node, where that is given), on all nodes.
spread() {
    nodes=${SLURM_NNODES:-1} meeting=''
    if [ "$nodes" -gt 1 ]; then
        head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
        meeting=" --nodes $nodes --meet $head:$((20000 + SLURM_JOB_ID % 20000)) --job $SLURM_JOB_ID"
    fi
    srun=''
    # Since 22.05 srun does not take over what sbatch was told of cores.
    if [ -n "${SLURM_JOB_ID:-}" ]; then srun="srun --ntasks-per-node=1 --cpus-per-task=${SLURM_CPUS_PER_TASK:-1} --kill-on-bad-exit=1 "; fi
    LAUNCHER="$srun$PYTHON src/scripts/cluster/launch.py --processes ${PROCESSES:-gpu}$meeting"
}

# carry_out FUNCTION WORDS...: run, train, sweep or launch, as a job was asked for.
carry_out() {
    case ${1:-} in
        run | train | sweep | launch) "$@" ;;
        *)
            echo "Give run SETTING METHOD, train TASK WAY, sweep SETTING METHOD or launch SCRIPT, and any further flag." >&2
            exit 2
            ;;
    esac
}

# setting_of LINE: the setting in the n-th line of settings.txt that holds one.
setting_of() {
    awk -v wanted="$1" '/^[A-Za-z]/ && ++n == wanted { print $1; found = 1 } END { exit !found }' \
        src/scripts/experiments/settings.txt && return
    echo "Line ${1:-(none)} of src/scripts/experiments/settings.txt is no setting: there are $(grep -c '^[A-Za-z]' src/scripts/experiments/settings.txt)." >&2
    exit 2
}

# analyse NAME [flags]: a script of src/analysis, of the model $LLAMA.
analyse() {
    analysis=$1
    shift
    launch "analysis/$analysis.py" --model_name_or_path "$LLAMA" --out "$SAVE/analysis/${LLAMA##*/}/$analysis" "$@"
}

sweep() {
    setting_name=$1 method_name=$2 flag=$(exit_flag "$2") || exit 2
    shift 2
    for layer in $LAYERS; do
        run "$setting_name" "$method_name" "$flag" "$layer" "$@"
    done
}

every_task() {
    lines methods.txt "$1"
    every_setting at_a_quarter "$@"
}

# at_a_quarter SETTING METHOD [flags]: a run with one exit.
at_a_quarter() {
    case $1 in
        *_longt5) quarter=3 ;;
        *) quarter=6 ;;
    esac
    setting_name=$1 method_name=$2
    shift 2
    run "$setting_name" "$method_name" --shallow_exit_layer "${SHALLOW:-$quarter}" "$@"
}

benchmark() { on_setting benchmark_task "$@"; }

drafts() { on_setting sweep_drafts "$@"; }

# on_setting SCRIPT SETTING [flags]: a script that takes the flags of a task's run script, as settings.txt has them.
on_setting() {
    setting=$(line settings.txt "$2") || exit 2
    script=$1 name=$2 kind=${setting%%.py *}
    shift 2
    eval "launch \"scripts/\$script.py\" --task ${kind#run_} ${setting#* } --out \"\$SAVE/\$script/\$name\" \"\$@\""
}

measure() {
    case ${1:-} in
        benchmark | '' | -*)
            [ "${1:-}" != benchmark ] || shift
            every_setting benchmark --max_eval_samples 100 --layer "$LAYER" --bf16_full_eval True "$@"
            ;;
        drafts)
            shift
            every_setting drafts --exit_layers "$EXIT_LAYERS" --num_speculations 2,4,8,12 --bf16_full_eval True "$@"
            ;;
        *)
            echo "$1 is nothing to measure: give benchmark or drafts, and any further flag." >&2
            exit 2
            ;;
    esac
}

# every_setting FUNCTION [flags]: a function of this file on every line in $SETTINGS.
every_setting() {
    what=$1 failed=
    shift
    # shellcheck disable=SC2086
    lines settings.txt $SETTINGS
    for each in $SETTINGS; do
        # A task that cannot be run, such as one whose data are not there, does not keep the others from it.
        ("$what" "$each" "$@") || failed="$failed $each"
    done
    if [ -n "$failed" ]; then
        echo "Not run, or ended with an error:$failed" >&2
        exit 1
    fi
}
