#!/usr/bin/env bash
# Run the tests as they are, with the instructions of older processors, and with two threads: none of these may decide
# anything. Arguments go to test.sh. Ends with a table of what passed, and code 1 where something did not.
set -uo pipefail
here="$(dirname "${BASH_SOURCE[0]}")"
arguments=("$@")
table=()
code=0
trap 'exit 130' INT TERM

# try NAME VARIABLE=VALUE...: the tests in that environment, and a line of the table.
try() {
    local name="$1" outcome=passed
    shift
    echo "== $name"
    SECONDS=0
    env "$@" bash "$here/test.sh" "${arguments[@]}" || { outcome="failed ($?)" && code=1; }
    table+=("$(printf '%-26s %-12s %5d s' "$name" "$outcome" "$SECONDS")")
}

try "as it is"
try "no vector instructions" ATEN_CPU_CAPABILITY=default
try "AVX2" ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
# A thread without work sleeps: models so small leave it waiting nearly always, and on a busy machine others want the core.
try "two threads" OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE

echo
printf '%s\n' "${table[@]}"
exit "$code"
