#!/bin/bash
# Writes what a cluster needs to start: certificates, cluster key, cluster.toml and a NAME.toml for each node.
# usage: cluster-files.sh SBCCTL DIR [NAME=UNICAST,CORE,PEER ...]
#   UNICAST, CORE  one address, or one of IPv4 and one of IPv6 with a + between them
#   PEER      address of gRPC and of the other nodes' links (port 7443)
#   ANYCAST   the shared address (198.18.112.112), or one of each family with a + between them
#   PSAP      where calls go, ADDR:PORT (198.18.2.66:5060)
#   DRIVER    announce driver (none: something outside moves the route)
#   AT        DIR as the nodes see it (/etc/sbc, the mount in compose.yaml); their data goes to DATA (/var/lib/sbc)
# Without nodes: the three of compose.yaml.
set -eu
sbcctl=$1 dir=$2
shift 2
[ $# -gt 0 ] || set -- node-a=198.18.2.18,198.18.2.20,198.18.2.18 node-b=198.18.2.34,198.18.2.36,198.18.2.34 node-c=198.18.2.50,198.18.2.52,198.18.2.50
: "${ANYCAST:=198.18.112.112}" "${PSAP:=198.18.2.66:5060}" "${DRIVER:=none}" "${AT:=/etc/sbc}" "${DATA:=/var/lib/sbc}"

# toml A or A+B: an address or a list of two, as TOML; sans A+B: as arguments of `sbcctl pki issue`.
toml() { if [[ $1 == *+* ]]; then printf '["%s", "%s"]' "${1%+*}" "${1#*+}"; else printf '"%s"' "$1"; fi; }
sans() { local a; for a in ${1/+/ }; do printf -- '--san %s ' "$a"; done; }

umask 077
mkdir -p "$dir"
"$sbcctl" pki init --dir "$dir/pki" --cluster lab --force >&2
"$sbcctl" pki issue --dir "$dir/pki" --kind user --name ops --role admin --force >&2
od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$dir/cluster.key"

members='' id=0
for node in "$@"; do
  id=$((id + 1))
  IFS='=,' read -r name unicast core peer <<<"$node"
  members+=$(printf '[[cluster.members]]\nname = "%s"\nid = %d\npeer = "%s:7443"\nunicast = %s\ncore = %s\n\n ' "$name" "$id" "$peer" "$(toml "$unicast")" "$(toml "$core")")
done
members=$(sed 's/^ *//' <<<"$members")

id=0
for node in "$@"; do
  id=$((id + 1))
  IFS='=,' read -r name unicast core peer <<<"$node"
  "$sbcctl" pki issue --dir "$dir/pki" --kind node --name "$name" $(sans "$unicast") $(sans "$ANYCAST") --san "$peer" --force >&2
  cat >"$dir/$name.toml" <<TOML
[node]
name = "$name"
id = $id
data_dir = "$DATA/$name"

[cluster]
id = "lab"
key_file = "$AT/cluster.key"
config_file = "$AT/cluster.toml"

$members

[sip]
anycast = $(toml "$ANYCAST")
unicast = $(toml "$unicast")
core = $(toml "$core")
port = 5060
tls_port = 5061

[tls]
ca = "$AT/pki/ca.crt"
cert = "$AT/pki/$name.crt"
key = "$AT/pki/$name.key"

[grpc]
listen = "$peer:7443"

[announce]
driver = "$DRIVER"
preference_ms = $((id * 150 - 150))
announce_at_start = true

[media]
engine = "embedded"
ports = [10000, 32767]

[metrics]
listen = "$peer:9464"

[log]
filter = "info"
format = "json"
TOML
done

# An IPv6 address stands in brackets before its port.
source=${PSAP%:*}
case $source in \[*) source=${source#[} source=${source%]}/128 ;; *) source+=/32 ;; esac
cat >"$dir/cluster.toml" <<TOML
[emergency]
numbers = ["112", "911"]

[[trunks]]
name = "psap"
realm = "core"
sources = ["$source"]
targets = ["$PSAP;transport=udp"]

[[trunks]]
name = "callers"
realm = "external"
# Everybody. A request within a call is heard from where its far end is: from elsewhere once it is no more where it was.
sources = ["0.0.0.0/0", "::/0"]
targets = []

[[routes]]
name = "emergency"
emergency = true
trunks = ["psap"]

[[routes]]
name = "sipp"
user = "service"
trunks = ["psap"]
TOML
