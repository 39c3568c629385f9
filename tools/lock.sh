#!/bin/sh
# Write constraints.txt: the version of every package a set-up installs, its build tools included.
# Run it (`make lock`) to take newer versions; commit the outcome together with what it needs.
set -eu
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM HUP

"$PYTHON" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --disable-pip-version-check"
$pip install --quiet --upgrade pip
$pip install --quiet hatchling editables
$pip install --quiet --no-build-isolation --editable ".[demo]" --group dev

{
    echo "# The versions of a repeatable set-up; written by tools/lock.sh, not by hand."
    $pip freeze --all --exclude-editable --exclude setuptools --exclude wheel | LC_ALL=C sort --ignore-case
} > "$folder/constraints.txt"
mv "$folder/constraints.txt" constraints.txt
chmod 644 constraints.txt
