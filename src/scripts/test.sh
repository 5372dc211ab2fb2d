#!/usr/bin/env bash
# Set up, lint, check types, and run the tests, in as many processes as there are cores. `--fast` leaves out those marked
# slow or real; other arguments go to pytest: `--seed fresh` has random tests draw anew, from a seed that is printed, and
# `-n 0` asks for one process.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up requirements-dev.txt requirements-gguf.txt requirements-lora.txt requirements-cluster.txt

# No test needs a network. The models of the tests are so small that a second thread only waits for the first.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# A process takes some 2 GB. What worksteal gives a process lies together, so most fixtures are made once.
processes=(-n auto --maxprocesses 8 --dist worksteal)
arguments=()
for argument in "$@"; do
    case "$argument" in
    --fast) arguments+=(-m "not slow and not real") ;;
    *no:xdist) processes=() && arguments+=("$argument") ;;
    *) arguments+=("$argument") ;;
    esac
done

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
"$PYTHON" -m pytest -q "${processes[@]}" "${arguments[@]}"
