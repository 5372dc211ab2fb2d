# Sourced by the other scripts: enters the repository's root and makes sure that .venv holds the pinned requirements
# and imports this checkout.
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

# set_up REQUIREMENTS...: creates or completes .venv with requirements.txt and each REQUIREMENTS, and defines $PYTHON.
set_up() {
    PYTHON="$PWD/.venv/bin/python"
    if [ ! -x "$PYTHON" ]; then
        local base
        base=$(find_python) || exit 1
        echo "Creating .venv with $("$base" --version)"
        "$base" -m venv .venv || exit 1
    fi
    local pins each
    pins=$(cat requirements*.txt)
    for each in "$@"; do
        if stale "installed-$(basename "$each" .txt)" "$pins"; then
            echo "Installing $each (some minutes the first time)"
            pip_install -r requirements.txt -r "$each"
            fresh "installed-$(basename "$each" .txt)" "$pins"
        fi
    done
    install_checkout
    export PYTHON
}

# install_checkout: has .venv import what lies here, and makes its console commands. torch brought the setuptools that
# builds it, so no package index is asked.
install_checkout() {
    if [ "$(cd .venv && pwd -P)" != "$(pwd -P)/.venv" ]; then
        # A link to the .venv of another checkout, which stays what it imports elsewhere.
        export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
        return
    fi
    local made_of
    made_of=$(pwd -P && cat pyproject.toml)
    if stale installed-checkout "$made_of"; then
        pip_install --no-deps --no-build-isolation -e .
        fresh installed-checkout "$made_of"
    fi
}

pip_install() { "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" || exit 1; }

# stale NAME TEXT, fresh NAME TEXT: whether .venv was last made from another text, and that it is now made from this one.
stale() { [ ! -f ".venv/.$1" ] || [ "$(cat ".venv/.$1")" != "$2" ]; }
fresh() { printf '%s\n' "$2" >".venv/.$1"; }
