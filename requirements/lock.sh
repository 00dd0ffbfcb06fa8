#!/bin/sh
# Rebuild every lock file here: `make lock`. With arguments, they go to uv: `make lock UPGRADE=--upgrade`.
# dev.txt is resolved first; the others are held to its versions, so that all files agree.
set -eu
cd "$(dirname "$0")/.."
uv="${UV:-.venv/bin/uv}"
compile() {
    "$uv" pip compile -q --universal --python-version 3.11 --fork-strategy fewest \
        --generate-hashes --no-emit-index-url --no-header "$@"
}
compile "$@" pyproject.toml requirements/dev.in requirements/bootstrap.in \
    --extra demo --extra convert --extra tune --output-file requirements/dev.txt
compile requirements/bootstrap.in -c requirements/dev.txt --output-file requirements/bootstrap.txt
compile pyproject.toml --extra cpu -c requirements/dev.txt --output-file requirements/cpu.txt
compile pyproject.toml --extra gpu -c requirements/dev.txt --output-file requirements/gpu.txt
compile pyproject.toml --extra demo -c requirements/dev.txt --output-file requirements/demo.txt
compile pyproject.toml --extra tune -c requirements/dev.txt --output-file requirements/tune.txt
