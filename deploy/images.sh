#!/bin/bash
# Builds the two images of compose.yaml without a registry:
#   sbc:1        FROM scratch, with sbcd and sbcctl out of the directory BIN
#   sbc-tools:1  this machine's own sipp, ip, nft and busybox with the libraries they need
# usage: images.sh BIN       (target/release, or where cargo put the dev profile)
set -eu
bin=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/sbc" "$work/tools"
cp "$bin/sbcd" "$bin/sbcctl" "$here/Dockerfile" "$work/sbc/"
# Debug information is most of a dev-profile binary, and no container needs it.
strip "$work/sbc/sbcd" "$work/sbc/sbcctl"
docker build -q -t sbc:1 "$work/sbc"

# Into merged-/usr paths, so that /bin/sh and /lib64/ld-linux are where everybody looks.
root=$work/tools
mkdir -p "$root"/usr/{bin,sbin,lib,lib64} "$root"/{etc,tmp,proc,sys,dev,run,var/tmp}
for d in bin sbin lib lib64; do ln -s "usr/$d" "$root/$d"; done
put() {
  local to=$1
  case $to in /bin/* | /sbin/* | /lib/* | /lib64/*) to=/usr$to ;; esac
  [ -e "$root$to" ] || { mkdir -p "$root$(dirname "$to")" && cp -L "$1" "$root$to"; }
}
for program in sipp ip nft busybox; do
  path=$(PATH="$PATH:/usr/sbin:/sbin" command -v "$program") || { echo "images.sh: no $program: run deploy/setup.sh test" >&2; exit 1; }
  put "$path"
  # A static program has no libraries; grep then finds none.
  for library in $(ldd "$path" 2>/dev/null | grep -o '/[^ )]*' | sort -u); do put "$library"; done
done
for applet in $(busybox --list); do
  [ -e "$root/usr/bin/$applet" ] || [ -e "$root/usr/sbin/$applet" ] || ln -s busybox "$root/usr/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"
# sipp asks for terminal descriptions even without a terminal.
for terminfo in /lib/terminfo/x/xterm /lib/terminfo/d/dumb; do [ ! -e "$terminfo" ] || put "$terminfo"; done
# An import leaves the image that had the name before without one: it goes, where no container has it.
before=$(docker images -q sbc-tools:1)
tar -C "$root" -c . | docker import -c 'ENV PATH=/usr/sbin:/usr/bin' -c 'ENV TERM=dumb' -c 'CMD ["/bin/sh"]' - sbc-tools:1
[ -z "$before" ] || docker rmi "$before" >/dev/null 2>&1 || true
