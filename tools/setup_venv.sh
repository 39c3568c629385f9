#!/bin/sh
# Create .venv, or bring it up to date, with Leveret installed editable in the versions of constraints.txt.
#
#   tools/setup_venv.sh [GROUP]     GROUP: a dependency group of pyproject.toml, `dev` for what tests and checks need
#
# PYTHON names the interpreter to use (3.11 or newer); default: python3, else the newest python3.x on the PATH.
set -eu
cd "$(dirname "$0")/.."
. tools/packages.sh

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if is_recent "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Leveret needs Python 3.11 or newer; ${PYTHON:-python3} is $(${PYTHON:-python3} --version 2>&1 || true). Name another: make setup PYTHON=/path/to/python3"
}

if ! [ "$(cat .venv/.folder 2> /dev/null)" = "$PWD" ] || ! .venv/bin/python -c 'import pip' 2> /dev/null; then
    python=$(find_python)
    printf 'setup: creating .venv with %s (%s)\n' "$("$python" --version)" "$python"
    # Debian packs a part of the standard library, the one that puts pip into a venv, separately.
    if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
        package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        printf 'setup: installing %s\n' "$package"
        can_install || fail "$python cannot make virtual environments; as root: apt-get install $package"
        install_packages "$package" || fail "apt-get could not install $package; see above"
    fi
    "$python" -m venv --clear .venv
fi

pip() {
    .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"
}

printf 'setup: installing Leveret%s\n' "${1:+ and what the group $1 needs}"
# The pip that comes with an older Python knows neither dependency groups nor constraints for build tools.
pip install --constraint constraints.txt pip
pip install --constraint constraints.txt --build-constraint constraints.txt --editable ".[demo]" ${1:+--group "$1"}
printf '%s\n' "$PWD" > .venv/.folder
