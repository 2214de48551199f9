#!/bin/sh
# Guests in network namespaces, each with a link to the hypervisor node and nothing else. Judges: the kernel's
# network, and openssl, which verifies what tokens say. A guest here is root in its namespace and tries what a list says.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
unset GOSE_SECRETS

# The site's authority: its key is in an element.
mkdir "$work/pki"
printf '[[slot]]\nseid = "CA"\nkind = "software"\n' >"$work/pki.toml"
node pki "$work/pki.toml"
ca="--socket $work/pki/admin.sock --secrets $work/CA.secrets"
{
    gose element init CA --socket "$work/pki/admin.sock" --secrets-file "$work/CA.secrets"
    gose key generate CA 9C $ca
} >/dev/null
gose pki init "$work/authority" --seid CA --name "Test site" $ca >"$work/ca.pem"

# issue KIND NAME REQUEST OPTIONS: a certificate from the authority.
issue() { kind=$1 name=$2 request=$3; shift 3; gose pki issue "$work/authority" "$request" --kind "$kind" --out "$work/$name.pem" "$@" $ca >/dev/null; }
# with_file NODE KIND OPTIONS: a node's TLS key in a file.
with_file() {
    at=$1 kind=$2; shift 2
    mkdir -p "$work/$at"
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -subj "/CN=$at" \
        -keyout "$work/$at/node.key" -out "$work/$at.csr" 2>/dev/null
    chmod 600 "$work/$at/node.key"
    issue "$kind" "$at" "$work/$at.csr" "$@"
    cp "$work/$at.pem" "$work/$at/node.pem"
    cp "$work/ca.pem" "$work/$at/ca.pem"
}
with_file grid server --san localhost
with_file auth server --san localhost
with_file hv hv --spiffe spiffe://test.site/hv/hv-1 --san localhost
tls='[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["ca.pem"]
user-anchor-files = ["ca.pem"]
node-anchor-files = ["ca.pem"]
trust-domain = "test.site"'

# init NODE SEID; identity NODE SEID KIND LABEL ROLE: a key made in the element, its certificate, an identity.
init() { gose element init "$2" --socket "$work/$1/admin.sock" --secrets-file "$work/$2.secrets" >/dev/null; }
identity() {
    at="--socket $work/$1/admin.sock --secrets $work/$2.secrets"
    gose key generate "$2" 9A $at >/dev/null
    gose key csr "$2" 9A --name "$2" $at --out "$work/$2.csr"
    case $3 in
    eap-server) issue eap-server "$2" "$work/$2.csr" --san auth.test.site ;;
    *) issue "$3" "$2" "$work/$2.csr" ;;
    esac
    gose identity add "$2" "$4" --role "$5" --chain "$work/$2.pem" --anchors "$work/ca.pem" $at >/dev/null
    sed -n 's/^bearer-pin = "\(.*\)"/\1/p' "$work/$2.secrets" >"$work/$2.pin"
    chmod 600 "$work/$2.pin"
}

# The grid with the guests' elements.
cat >"$work/grid.toml" <<END
[listen]
address = "127.0.0.1:7777"
$tls
[[slot]]
seid = "SE-A"
kind = "software"
default = "allow"
[[slot]]
seid = "SE-B"
kind = "software"
default = "allow"
[[user]]
id = "spiffe://test.site/hv/hv-1"
seid = ["SE-A", "SE-B"]
role = "admin"
END
node grid "$work/grid.toml"
for seid in SE-A SE-B; do init grid "$seid"; identity grid "$seid" eap-client guest peer; done

# The authentication server.
printf '[[slot]]\nseid = "AS1"\nkind = "software"\n' >"$work/auth.toml"
node auth "$work/auth.toml"
init auth AS1; identity auth AS1 eap-server server authenticator
cp "$work/AS1.pin" "$work/auth/pin"; chmod 600 "$work/auth/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
cat >>"$work/auth/gosed.toml" <<END
[listen]
address = "127.0.0.1:7787"
$tls
[authentication-server]
elements = ["AS1"]
identity = "server"
pin = "file:pin"
callers = ["spiffe://test.site/hv/hv-1"]
allow = ["SE-A", "SE-B"]
END
start auth

# The hypervisor: its element signs tokens.
printf '[[slot]]\nseid = "HV"\nkind = "software"\n' >"$work/hv.toml"
node hv "$work/hv.toml"
init hv HV
own="--socket $work/hv/admin.sock --secrets $work/HV.secrets"
gose key generate HV 9C $own >/dev/null
gose key csr HV 9C --name hv-1 $own --out "$work/hv-ca.csr"
issue hv-ca hv-ca "$work/hv-ca.csr" --spiffe spiffe://test.site/hv/hv-1
cp "$work/hv-ca.pem" "$work/hv/"
pin HV >"$work/hv/pin"; chmod 600 "$work/hv/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
cat >>"$work/hv/gosed.toml" <<END
[listen]
address = "127.0.0.1:7797"
$tls
[[slot]]
seid = "SE-A"
kind = "remote"
node = "localhost:7777"
default = "allow"
[[slot]]
seid = "SE-B"
kind = "remote"
node = "localhost:7777"
default = "allow"
[hypervisor]
driver = "namespace"
join-folder = "join"
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "HV", slot = "9C", pin = "file:pin" }
name = "localhost"
guest-anchor-files = ["ca.pem"]
generation-file = "generations.json"
authentication-server = { node = "localhost:7787", name = "localhost" }
[[hypervisor.image]]
name = "idle"
command = ["sleep", "600"]
END
start hv
hv=${daemons##* }

A=00000000-0000-4000-8000-00000000000a
B=00000000-0000-4000-8000-00000000000b
create() { gose vm create idle --seid "$1" --uuid "$2" --socket "$work/hv/admin.sock"; }
# in_guest UUID COMMAND …: as root of the guest.
in_guest() {
    uuid=$1; shift
    ip netns exec "gose-$uuid" env GOSE_JOIN="$work/hv/join/$uuid/join.json" "$@"
}
log_has() { sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -q "$1"; }
fails() { ! "$@"; }

begun=$(date +%s%N)
check "the hypervisor creates guest A" create SE-A "$A"
echo "       created in $((($(date +%s%N) - begun) / 1000000)) ms, the command line's start included"
check "the hypervisor creates guest B" create SE-B "$B"
check "an element is bound to one guest" fails create SE-A 00000000-0000-4000-8000-00000000000c

# Phase 1: attach.
check "guest A attaches and shows its token" in_guest "$A" gose guest token --out "$work/token-a.pem"
check "openssl reads the token: its name is the guest's" sh -c \
    "openssl x509 -in $work/token-a.pem -noout -ext subjectAltName | grep -q spiffe://test.site/hv/hv-1/vm/$A"
check "openssl verifies the token's chain" openssl verify -CAfile "$work/ca.pem" -untrusted "$work/token-a.pem" "$work/token-a.pem"
check "guest A joins again with the next secret" in_guest "$A" gose guest token
check "guest A sees its own element alone" sh -c \
    "test \"\$(ip netns exec gose-$A gose element list --join $work/hv/join/$A/join.json)\" = SE-A"
check "guest A powers its element" in_guest "$A" gose element info SE-A
check "guest A gets an identity token for its element's key" in_guest "$A" gose guest identity --out "$work/identity-a.pem"
check "the identity token carries the key in the element" sh -c \
    "test \"\$(openssl x509 -in $work/identity-a.pem -noout -pubkey)\" = \"\$(openssl x509 -in $work/SE-A.pem -noout -pubkey)\""

# Phase 2: EAP-TLS inside the element, over the guest's channel.
check "guest A authenticates by EAP-TLS in its element, then resumes" sh -c \
    "ip netns exec gose-$A gose guest authenticate SE-A guest --count 2 --join $work/hv/join/$A/join.json \
 --bearer-pin-source file:$work/SE-A.pin | tee /dev/stderr | tr '\n' ' ' | grep -q ' full,.* resumed,'"

# The guest service joins, and programs of the guest come to it.
mkdir "$work/service"
cat >"$work/service/guest.toml" <<END
version = 1
join-file = "$work/hv/join/$A/join.json"
[listen]
socket = "guest.sock"
END
daemon ip netns exec "gose-$A" gose guest serve --config "$work/service/guest.toml"
until_ready test -S "$work/service/guest.sock"
check "guest A's service attaches and lists its element" sh -c \
    "test \"\$(gose element list --socket $work/service/guest.sock)\" = SE-A"
check "guest A's element signs through it" sh -c \
    "gose key csr SE-A 9A --name A --out $work/a.csr --socket $work/service/guest.sock --secrets $work/SE-A.secrets &&
     openssl req -in $work/a.csr -noout -verify"
check "and knows nothing of B's" fails gose element power SE-B --socket "$work/service/guest.sock"
kill "${daemons##* }"

# Isolation: A is root in its namespace.
host_a=169.254.1.1
host_b=169.254.1.5
guest_b=169.254.1.6
# reaches ADDRESS PORT: a TCP connection comes about.
reaches() { ip netns exec "gose-$A" timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2"; }
check "A reaches its own listener" reaches "$host_a" 7778
ip -n "gose-$A" route add default via "$host_a"
check "A does not reach B's listener by its address" fails reaches "$host_b" 7778
check "A does not reach B's attach endpoint by its address" fails reaches "$host_b" 7779
ip -n "gose-$A" address add "$guest_b/30" dev eth0
check "nor with B's address" fails reaches "$host_b" 7779
mac=$(ip netns exec "gose-$B" cat /sys/class/net/eth0/address)
ip -n "gose-$A" link set eth0 down; ip -n "gose-$A" link set eth0 address "$mac"; ip -n "gose-$A" link set eth0 up
ip -n "gose-$A" route add default via "$host_a" 2>/dev/null || :
check "nor with B's MAC address" fails reaches "$host_b" 7779
# A has B's join record, as if B had leaked it, and takes it to the only endpoint that it reaches.
sed "s/$host_b/$host_a/" "$work/hv/join/$B/join.json" >"$work/stolen.json"; chmod 600 "$work/stolen.json"
check "B's join secret is worth nothing on A's link" fails ip netns exec "gose-$A" gose guest token --join "$work/stolen.json"
check "the refusal is in the log" log_has "vm=$A.*secret\|vm=$A.*join"
check "A asks for B's element" fails in_guest "$A" gose element power SE-B
check "A asks for an element that is not there, and gets the same answer" sh -c "
    ip netns exec gose-$A gose element power SE-B --join $work/hv/join/$A/join.json 2>$work/b
    ip netns exec gose-$A gose element power SE-X --join $work/hv/join/$A/join.json 2>$work/x
    test -s $work/b && cmp $work/b $work/x"
check "A does not manage the node" fails in_guest "$A" gose vm list
check "A reaches no other service of the node without a certificate" fails in_guest "$A" gose element list --node "$host_a:7797"
# A holds all the connections that it may and more.
flood() { ip netns exec "gose-$A" bash -c "for i in \$(seq 64); do eval \"exec \$((i + 9))<>/dev/tcp/$host_a/7778\"; done 2>/dev/null; sleep 20" & }
flood; flooding=$!
sleep 1
check "B works while A floods its own listener" in_guest "$B" gose element info SE-B
check "B authenticates meanwhile" in_guest "$B" gose guest authenticate SE-B guest --bearer-pin-source "file:$work/SE-B.pin"
kill "$flooding" 2>/dev/null || :; wait "$flooding" 2>/dev/null || :

# The end of a guest.
cp "$work/hv/join/$B/join.json" "$work/old.json"
check "guest B is destroyed" gose vm destroy "$B" --socket "$work/hv/admin.sock"
gone() { ! ip netns list | grep -q "$B" && [ ! -e "$work/hv/join/$B" ]; }
check "its namespace, link and join record are gone" until_ready gone
check "guest B is created again" create SE-B "$B"
sed "s/\"host\":\"[0-9.]*\"/\"host\":\"$host_b\"/" "$work/old.json" >"$work/old-b.json"
check "the secret of its former life does not count" fails ip netns exec "gose-$B" gose guest token --join "$work/old-b.json"
check "the new one does, with the next generation" in_guest "$B" gose guest token
check "generation 2 is listed" sh -c "gose vm list --socket $work/hv/admin.sock | grep '$B' | grep -q 'generation 2'"

# The node is killed: what it left behind does not hinder its next life.
kill -9 "$hv"; wait "$hv" 2>/dev/null || :
rm -f "$work/hv/admin.sock"
start hv
check "after kill -9 the node creates guest A again" create SE-A "$A"
check "it attaches" in_guest "$A" gose guest token
finish
