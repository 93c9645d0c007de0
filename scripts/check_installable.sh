#!/usr/bin/env bash
# Build a wheel, install it in a fresh environment and train for two epochs from a folder that is not the repository.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" "$root"
"$work/venv/bin/pip" install --quiet -c "$root/constraints.txt" "$work"/rdtrain-*.whl
cd "$work"
"$work/venv/bin/rdtrain" --help > /dev/null
"$work/venv/bin/rdtrain" experiment=quickstart engine.num_epochs=2 engine.epoch_steps=5
ls runs/*/export/model.pth
