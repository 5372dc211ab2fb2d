#!/usr/bin/env bash
# Set up, lint, check types, and run the tests. `--fast` leaves out those marked slow or real; other arguments go to pytest, so `--seed fresh`
# has random tests draw anew, from a seed that is printed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up requirements-dev.txt requirements-gguf.txt requirements-lora.txt requirements-cluster.txt

# No test needs a network. The models of the tests are so small that a second thread only waits for the first.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

arguments=()
for argument in "$@"; do
    if [ "$argument" = "--fast" ]; then arguments+=(-m "not slow and not real"); else arguments+=("$argument"); fi
done

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
"$PYTHON" -m pytest -q "${arguments[@]}"
