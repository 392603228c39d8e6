#!/bin/bash
# Runs groups of checks, prints a summary line for each and at the end `N passed, N failed, N skipped`.
# usage: run.sh [lint] [unit] [simulation] [processes] [compose]
# Every cargo call has --workspace and the dev profile, so the dependencies are built once (lint adds a check build).
set -u
cd "$(dirname "$0")/.." || exit 1
groups=("$@")
[ ${#groups[@]} -gt 0 ] || groups=(lint unit simulation processes compose)
logs=target/test-logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0
summary=()

# Whole runs are bounded: no test may hang CI (seconds a group).
limit_lint=1500 limit_unit=1800 limit_simulation=1500 limit_processes=2400 limit_compose=1200

# report GROUP PASSED FAILED SKIPPED SECONDS [NOTE]
report() {
  passed=$((passed + $2)) failed=$((failed + $3)) skipped=$((skipped + $4))
  local line
  line=$(printf '%-11s %4d passed, %d failed, %d skipped, %d s%s' "$1:" "$2" "$3" "$4" "$5" "${6:+ ($6)}")
  summary+=("$line")
  printf -- '---- %s\n' "$line"
}

# cargo_tests GROUP ARGS...: one `cargo test`, counted by its own result lines.
cargo_tests() {
  local group=$1 began=$SECONDS status counts limit
  shift
  limit="limit_$group"
  printf -- '---- %s: cargo test %s\n' "$group" "$*"
  timeout --kill-after=30 "${!limit}" cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$logs/$group.log"
  status=${PIPESTATUS[0]}
  counts=$(sed -nE 's/.*test result: [a-zA-Z]+\. ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' "$logs/$group.log" |
    awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}')
  read -r p f s <<<"$counts"
  # A crash, a time-out or a compile error has no result line.
  [ "$status" = 0 ] || [ "$f" -gt 0 ] || f=1
  if [ "$status" = 0 ] && [ $((p + f)) = 0 ]; then f=1; echo "---- $group: no test ran"; fi
  report "$group" "$p" "$f" "$s" $((SECONDS - began)) "$([ "$status" = 124 ] && echo "stopped after ${!limit} s")"
}

# tests_of DIR: the integration tests of a package, as `--test NAME` arguments.
tests_of() {
  local f
  for f in "$1"/tests/*.rs; do [ -e "$f" ] && basename "$f" .rs; done
  for f in "$1"/tests/*/main.rs; do [ -e "$f" ] && basename "$(dirname "$f")"; done
}

group_lint() {
  local began=$SECONDS ok=0 bad=0 name
  for name in fmt clippy doc; do
    printf -- '---- lint: %s\n' "$name"
    case $name in
    fmt) cargo fmt --all --check ;;
    clippy) timeout "$limit_lint" cargo clippy --workspace --all-targets -- -D warnings ;;
    doc) RUSTDOCFLAGS='-D warnings' timeout "$limit_lint" cargo doc --workspace --no-deps --document-private-items ;;
    esac && ok=$((ok + 1)) || bad=$((bad + 1))
  done
  report lint "$ok" "$bad" 0 $((SECONDS - began))
}

group_unit() {
  local args=() dir name
  for dir in proto node/core node/raft node ctl; do
    for name in $(tests_of "$dir"); do [ "$name" = sim ] || args+=(--test "$name"); done
  done
  cargo_tests unit --lib --bins "${args[@]}"
}

group_simulation() { cargo_tests simulation --test sim; }

group_processes() {
  local args=() name
  for name in $(tests_of cluster-tests); do [ "$name" = compose ] || args+=(--test "$name"); done
  # One cluster at a time has the fixed loopback addresses, and time is measured: one test at a time.
  cargo_tests processes "${args[@]}" -- --test-threads=1
}

group_compose() {
  local n
  if docker info >/dev/null 2>&1 && { docker-compose version || docker compose version; } >/dev/null 2>&1; then
    cargo_tests compose --test compose -- --test-threads=1
    return
  fi
  deploy/setup.sh missing-docker
  n=$(grep -c '^#\[test\]' cluster-tests/tests/compose.rs)
  if [ "${CI:-}" = true ]; then report compose 0 "$n" 0 0 'no docker'; else report compose 0 0 "$n" 0 'no docker'; fi
}

if ! deploy/setup.sh test; then
  report setup 0 1 0 "$SECONDS"
  echo "$passed passed, $failed failed, $skipped skipped"
  exit 1
fi

# The binaries that the process tests start, and all test programs, in one build.
build_began=$SECONDS
build=1
for group in "${groups[@]}"; do [ "$group" = lint ] || build=0; done
if [ "$build" = 0 ]; then
  echo '---- build: cargo build --workspace --all-targets'
  if ! cargo build --workspace --all-targets; then
    report build 0 1 0 $((SECONDS - build_began))
    echo "$passed passed, $failed failed, $skipped skipped"
    exit 1
  fi
  echo "---- build: $((SECONDS - build_began)) s"
fi

for group in "${groups[@]}"; do
  case $group in
  lint | unit | simulation | processes | compose) "group_$group" ;;
  *) echo "unknown group '$group'" >&2; exit 2 ;;
  esac
done

echo
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
