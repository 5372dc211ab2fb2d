# Sourced by scripts that put SmolLM2-135M-Instruct through several others; from the repository's root.
model=models/smollm2-135m-instruct

# refuse SENTENCE: end with 2.
refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

# have_model: the environment and the model, unless commands are only printed.
have_model() {
    if [ -z "${DRY_RUN:-}" ]; then
        set_up requirements.txt
        [ -f $model/config.json ] || bash src/scripts/real_model.sh
    fi
}

# step SCRIPT [flags]: a script of src with this model.
step() {
    local script=$1
    shift
    if [ -n "${DRY_RUN:-}" ]; then
        printf '%s' "${PYTHON:-python} src/$script --model_name_or_path $model"
        printf " '%s'" "$@"
        printf '\n'
    else
        echo "== $script $*"
        "$PYTHON" "src/$script" --model_name_or_path $model "$@"
    fi
}

# fit FILE TEXTS...: translators of its exits, unless they are there and whole; what follows TEXTS are further flags.
fit() {
    local file=$1
    shift
    if [ ! -f "$file" ] || [ -f "$file.part" ]; then
        step scripts/fit_translators.py --text "$@" --out "$file"
    fi
}
