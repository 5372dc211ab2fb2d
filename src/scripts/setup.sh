# Sourced by the other scripts: enters the repository's root and makes sure that .venv holds the pinned requirements.
# An existing .venv is reused and only touched where a pin changed; the global Python never is.

cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer was found: install one and put it on PATH." >&2
    return 1
}

# set_up REQUIREMENTS: creates or completes .venv and defines $PYTHON.
set_up() {
    PYTHON="$PWD/.venv/bin/python"
    if [ ! -x "$PYTHON" ]; then
        local base
        base=$(find_python) || exit 1
        echo "Creating .venv with $("$base" --version)"
        "$base" -m venv .venv || exit 1
    fi
    local stamp=".venv/.installed-$(basename "$1" .txt)"
    local pins
    pins=$(cat requirements*.txt)
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$pins" ]; then
        echo "Installing $1 (some minutes the first time)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$1" || exit 1
        printf '%s\n' "$pins" >"$stamp"
    fi
    export PYTHON
}
