#!/bin/sh
# Say in one screen what this node has, and try one tiny decode: sh src/scripts/cluster/doctor.sh. It needs no network and
# writes nothing. The exit code is 1 where something is in the way of a run. On a compute node: srun sh .../doctor.sh.
cd "$(dirname "$0")/../../.." || exit 1
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi
if ! command -v "$PYTHON" >/dev/null 2>&1; then
    echo "There is no $PYTHON: run src/scripts/setup.sh, or name another by PYTHON=." >&2
    exit 1
fi
if ! "$PYTHON" -c 'import torch, transformers' 2>/dev/null; then
    echo "$PYTHON has no torch and transformers: pip install -e . in the checkout, or name another by PYTHON=." >&2
    exit 1
fi
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" src/scripts/cluster/doctor.py "$@"
