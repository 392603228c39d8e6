#!/bin/bash
# Fuzzes every target, or those named, for so many seconds each, from seeds made of the message corpus; prints the executions.
# usage: run.sh SECONDS [TARGET…]     needs: rustup toolchain nightly, cargo install cargo-fuzz
set -u
cd "$(dirname "$0")/../../.." || exit 1
seconds=${1:?usage: run.sh SECONDS [TARGET…]}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(message stream sdp multipart call policy uri)
fuzz=node/core/fuzz
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
  echo "cargo-fuzz is missing: rustup toolchain install nightly && cargo install cargo-fuzz" >&2
  exit 1
fi
# Seeds: the messages and bodies of the corpus, as the tests read them.
FUZZ_SEEDS=$PWD/$fuzz/corpus cargo test -q --workspace --test corpus_core -- --exact write_fuzz_seeds --nocapture || exit 1
status=0
for target in "${targets[@]}"; do
  echo "---- fuzz: $target for $seconds s"
  log=$(mktemp)
  if cargo +nightly fuzz run --fuzz-dir "$fuzz" "$target" -- -max_total_time="$seconds" -max_len=8192 -rss_limit_mb=4096 >"$log" 2>&1; then
    grep -E '^Done ' "$log"
  else
    tail -40 "$log"
    echo "---- fuzz: $target FAILED"
    status=1
  fi
  rm -f "$log"
done
exit $status
