#!/bin/bash
# Puts the tree of a commit of this repository into a directory: usage: checkout.sh COMMIT DIR
set -eu
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "checkout: '$1' is no commit here" >&2; exit 1; }
rm -rf "$2"
mkdir -p "$2"
git archive "$commit" | tar -x -C "$2"
