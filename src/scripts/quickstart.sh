#!/usr/bin/env bash
# Set up, evaluate the embedded model under every kind of policy, show the table, the figure and where the page is.
# Arguments go to quickstart.py (--examples 500, --out DIR, ...). With --real as the first, a real language model is
# fetched, and the others go to quickstart_real.py (--questions 20, --out DIR, ...).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up requirements.txt

if [ "${1:-}" = "--real" ]; then
    bash src/scripts/real_model.sh
    HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false "$PYTHON" src/scripts/quickstart_real.py "${@:2}"
    exit
fi

# The model and the data are in the repository: nothing is fetched.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# The model is so small that a second thread only waits for the first, and for whatever else the machine does.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$PYTHON" src/scripts/quickstart.py "$@"
