#!/bin/bash
# Installs what is missing for the build (`build`) or for the build and the tests (`test`) on Debian 12.
# Idempotent: what is there is left alone, and nothing is asked of the network when nothing is missing.
# Docker is never installed from here: it is the machine owner's choice. `missing-docker` says how to get it.
set -u
cd "$(dirname "$0")/.." || exit 1

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: failed: %s\n' "$*" >&2; exit 1; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

missing=()
# want COMMAND PACKAGE: PACKAGE brings COMMAND.
want() { have "$1" || missing+=("$2"); }

case "${1:-build}" in
build | test) ;;
missing-docker)
  echo 'docker with compose is not there or its daemon does not run. On Debian 12, as root:'
  echo '    apt-get install docker.io docker-compose && service docker start'
  exit 0
  ;;
*) fail "unknown argument '$1'; use: setup.sh build|test|missing-docker" ;;
esac

have cargo || fail 'no cargo: install Rust 1.95 or later by rustup (rust-toolchain.toml names the version)'
want gcc gcc
want make make
# libc.a and the headers: the binaries are static, and the C parts of ring and zstd are compiled.
printf 'int main(void){return 0;}\n' >"${TMPDIR:-/tmp}/sbc-setup-$$.c"
if ! gcc -static -o "${TMPDIR:-/tmp}/sbc-setup-$$" "${TMPDIR:-/tmp}/sbc-setup-$$.c" >/dev/null 2>&1; then missing+=(libc6-dev); fi
rm -f "${TMPDIR:-/tmp}/sbc-setup-$$" "${TMPDIR:-/tmp}/sbc-setup-$$.c"

if [ "${1:-build}" = test ]; then
  want sipp sip-tester
  want sipsak sipsak
  want baresip baresip-core
  want kamailio kamailio
  want linphonec linphone-cli
  want dnsmasq dnsmasq-base
  want bird bird2
  want ip iproute2
  want nft nftables
  want busybox busybox-static
  want flock util-linux
  want ps procps
fi

if [ ${#missing[@]} -gt 0 ]; then
  say "missing: ${missing[*]}"
  have apt-get || fail "this is not Debian; install by hand: ${missing[*]}"
  [ "$(id -u)" = 0 ] || fail "not root; run: apt-get install ${missing[*]}"
  log=$(mktemp)
  say 'apt-get update'
  DEBIAN_FRONTEND=noninteractive apt-get update >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail 'apt-get update (above: its last lines)'; }
  say "apt-get install ${missing[*]}"
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 ||
    { tail -n 20 "$log" >&2; fail "apt-get install ${missing[*]} (above: its last lines)"; }
  rm -f "$log"
fi

if [ "${1:-build}" = test ]; then
  for component in clippy rustfmt; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 && continue
    say "rustup component add $component"
    rustup component add "$component" >&2 || fail "no $component, and rustup cannot add it"
  done
fi
say "${1:-build}: all there"
