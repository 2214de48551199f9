#!/bin/sh
# Guests in network namespaces behind ports: a packet passes to the world outside when a RADIUS server has let the guest in,
# and none any more when its session ends. Judges: the kernel's packet filter, ping, TCP, FreeRADIUS, radclient.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"
bin=$(cd "$bin" && pwd)
PATH=$bin:$PATH

authority good
cat >>"$pki/good/ca.cnf" <<'EOF2'
[hv]
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = URI:spiffe://test.site/hv/hv-1, DNS:localhost, DNS:radius.gose.test
keyUsage = digitalSignature
[hv-ca]
basicConstraints = critical, CA:TRUE, pathlen:0
subjectAltName = URI:spiffe://test.site/hv/hv-1
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
EOF2
for name in node freeradius; do
    file_key $name p256
    sign good hv "$pki/$name.csr" "$pki/$name.pem"
done
printf testing123 >"$work/secret"
printf wrong >"$work/wrong"

slots HV SE-A SE-B server short >"$work/gosed.toml"
node
element SE-A p256 good client
element SE-B p256 good client
GOSE_SECRETS="$work/SE-B.secrets" gose identity add SE-B short --role peer --eap-id "@short.test" \
    --chain "$pki/SE-B.pem" --anchors "$pki/good/ca.pem" >/dev/null
element server p256 good server
element short p256 good server
gose element init HV --secrets-file "$work/HV.secrets" >/dev/null
sed -n 's/^piv-pin = "\(.*\)"/\1/p' "$work/HV.secrets" >"$work/HV.pin"
GOSE_SECRETS="$work/HV.secrets" gose key generate HV 9C --alg p256 >/dev/null
GOSE_SECRETS="$work/HV.secrets" gose key csr HV 9C --name hv-1 --out "$pki/hv-ca.csr" >/dev/null
sign good hv-ca "$pki/hv-ca.csr" "$pki/hv-ca.pem"
unset GOSE_SECRETS

# One node in every role: the authenticator asks a server over the network, wherever that is.
sed 's/^kind = "software"/&\ndefault = "allow"/' "$work/gosed.toml" >"$work/slots.toml"
# configure AUTHENTICATOR …: the node anew, with these lines in [hypervisor.authenticator].
configure() {
    {
        cat "$work/slots.toml" - <<EOF2
[tls]
certificate-file = "$pki/node.pem"
key = { file = "$pki/node.key" }
client-anchor-files = ["$pki/good/ca.pem"]
node-anchor-files = ["$pki/good/ca.pem"]
trust-domain = "test.site"
[authentication-server]
revoked-file = "$work/revoked.json"
elements = ["server"]
identity = "server"
pin = "file:$work/server.pin"
allow = ["SE-A", "spiffe://test.site/hv/hv-1/vm/$A"]
[[authentication-server.company]]
name = "short"
realms = ["short.test"]
elements = ["short"]
identity = "server"
pin = "file:$work/short.pin"
allow = ["SE-B"]
[authentication-server.company.reply]
session-timeout-s = 4
filter = "guests"
[authentication-server.radius]
listen = ["127.0.0.1:1812"]
[[authentication-server.radius.client]]
name = "hypervisor"
network = "127.0.0.1"
secret = "file:$work/secret"
disconnect-port = 3799
[authentication-server.radius.radsec]
listen = "127.0.0.1:2083"
anchor-files = ["$pki/good/ca.pem"]
clients = ["spiffe://test.site/hv/hv-1"]
[hypervisor]
driver = "namespace"
join-folder = "$work/join"
ca-certificate-file = "$pki/hv-ca.pem"
ca-key = { seid = "HV", slot = "9C", pin = "file:$work/HV.pin" }
name = "localhost"
guest-anchor-files = ["$pki/good/ca.pem"]
generation-file = "$work/generations.json"
[[hypervisor.image]]
name = "idle"
command = ["sleep", "600"]
[hypervisor.authenticator]
EOF2
        for line; do echo "$line"; done
    } >"$work/gosed.toml"
    kill "$gosed" && wait "$gosed" || :
    node
}
A=00000000-0000-4000-8000-00000000000a
B=00000000-0000-4000-8000-00000000000b
create() { gose vm create idle --seid "$1" --uuid "$2" >/dev/null; }
guests() { create SE-A $A && create SE-B $B && routes; }
# routes: each guest takes the node for its way out.
routes() {
    for uuid in $A $B; do
        guest=$(ip -n "gose-$uuid" -4 -o address show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
        ip -n "gose-$uuid" route replace default via "${guest%.*}.$((${guest##*.} - 1))"
    done
}
in_guest() { uuid=$1; shift; ip netns exec "gose-$uuid" env GOSE_JOIN="$work/join/$uuid/join.json" "$@"; }
enter() { in_guest "$1" gose guest authenticate "$2" "${3:-client}" --bearer-pin-source "file:$work/$2.pin"; }

# The world outside: another namespace behind the node.
ip netns add outside
ip link add out type veth peer name eth0 netns outside
ip address add 10.9.9.1/24 dev out
ip link set out up
ip -n outside address add 10.9.9.2/24 dev eth0
ip -n outside link set eth0 up
ip -n outside link set lo up
ip -n outside route add 169.254.0.0/16 via 10.9.9.1
echo 1 >/proc/sys/net/ipv4/ip_forward
mkdir "$work/web"
daemon ip netns exec outside python3 -m http.server -d "$work/web" 8000
ping_once() { in_guest "$1" ping -c 1 -W 1 "${2:-10.9.9.2}" >/dev/null 2>&1; }
connects() { in_guest "$1" timeout 1 bash -c "exec 3<>/dev/tcp/10.9.9.2/8000" 2>/dev/null; }
passes() { ping_once "$1" && connects "$1"; }
# Neither out, nor in, nor to the node itself.
blocked() {
    guest=$(ip -n "gose-$1" -4 -o address show eth0 | sed -n 's/.*inet \([0-9.]*\).*/\1/p')
    ! ping_once "$1" && ! connects "$1" && ! ping_once "$1" 10.9.9.1 &&
        ! ip netns exec outside ping -c 1 -W 1 "$guest" >/dev/null 2>&1
}
blocked_within() { for _ in $(seq "$1"); do if ! ping_once "$2"; then blocked "$2"; return; fi; sleep 0.1; done; return 1; }
fails() { ! "$@"; }
refused() { ! enter "$@" 2>"$work/refused" && grep -q 'EAP-Failure' "$work/refused"; }
broken() { ! enter "$@" 2>"$work/broken" && grep -q 'closed the conversation' "$work/broken"; }

udp='servers = ["127.0.0.1:1812"]'
with_secret="secret = \"file:$work/secret\""
disconnect='disconnect = "127.0.0.1:3799"'
nftables='port = "nftables"'

# GoSE is the server, over UDP.
configure "$udp" "$with_secret" "$disconnect" "$nftables"
check "two guests start" guests
check "they attach" in_guest $A gose guest token
check "before: nothing passes from or to a guest" blocked $A
check "guest A authenticates" enter $A SE-A
check "its port is open: ping and TCP pass" passes $A
check "that of guest B is not" blocked $B
check "guest A resumes its session, and its port stays open" sh -c \
    "ip netns exec gose-$A gose guest authenticate SE-A client --join $work/join/$A/join.json --bearer-pin-source file:$work/SE-A.pin | grep resumed"
check "packets pass still" passes $A
check "guest B, whom policy does not let in, is refused" refused $B SE-B
check "its port stays closed" blocked $B
check "a filter that the packet filter cannot serve opens nothing" broken $B SE-B short
check "the port stays closed" blocked $B
check "and the log says what to do" log_has 'port = "hook" can serve that'
check "guest A logs off" in_guest $A gose guest logoff
check "its port is closed" blocked $A
check "it authenticates again" enter $A SE-A
check "its port is open" passes $A

# radclient tells the middleware to end sessions.
# radclient_says SECRET USER …: what it hears.
radclient_says() {
    secret=$1; shift
    { for attribute; do echo "$attribute"; done; echo "Event-Timestamp = $(date +%s)"; echo 'Message-Authenticator = 0x00'; } |
        radclient -x -t 1 -r 1 127.0.0.1:3799 disconnect "$secret" 2>&1 | tee "$work/radclient"
}
acknowledged() { radclient_says "$@" | grep -q 'Received Disconnect-ACK'; }
refused_with() { cause=$1; shift; radclient_says testing123 "$@" | grep -q "Error-Cause = $cause"; }
check "Disconnect-Request with a wrong secret has no answer" fails acknowledged other "Calling-Station-Id = \"$A\""
check "of an unknown session: NAK" refused_with Session-Context-Not-Found 'User-Name = "nobody"'
check "for another NAS: NAK" refused_with NAS-Identification-Mismatch "Calling-Station-Id = \"$A\"" 'NAS-Identifier = "hv-2"'
check "none of them closed the port" passes $A
check "radclient's Disconnect-Request for guest A: ACK" acknowledged testing123 "Calling-Station-Id = \"$A\"" 'NAS-Identifier = "localhost"'
check "its port is closed" blocked $A

# The server's own.
check "guest A authenticates once more" enter $A SE-A
check "packets pass" passes $A
check "gose eap revoke ends its session" sh -c "gose eap revoke SE-A | grep -q '^1 sessions end'"
check "its port closes" blocked_within 20 $A
check "it is not let in again" refused $A SE-A
check "its port stays closed" blocked $A


# The end of a guest, and of a node.
configure "$udp" "$with_secret" "$disconnect" "$nftables"
check "the guests start under a new node" guests
check "the name is revoked there too" refused $A SE-A
check "it is listed" sh -c "test \"\$(gose eap revoked)\" = SE-A"
check "gose eap reinstate gives it back" gose eap reinstate SE-A
check "guest A authenticates" enter $A SE-A
check "packets pass" passes $A
metrics() { python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9777/metrics").read().decode(), end="")'; }
check "metrics count it" sh -c "python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1:9777/metrics\").read().decode())' |
    grep -q '^gose_guest_ports_open 1'"
# Its own name, by a token for the key in its element.
named() {
    in_guest $A gose guest identity --out "$work/identity.pem" >/dev/null &&
        gose identity add SE-A vm --role peer --eap-id "@gose.test" --chain "$work/identity.pem" \
            --anchors "$pki/good/ca.pem" --secrets "$work/SE-A.secrets"
}
check "guest A gets a name of its own" named
check "and authenticates by it" enter $A SE-A vm
check "the server knows it by that name" log_has "verdict=\"accept\" peer=\"spiffe://test.site/hv/hv-1/vm/$A\""
check "guest A is destroyed" gose vm destroy $A
destroyed() { log_has "session .*disconnected client=\"hypervisor\" peer=\"spiffe://test.site/hv/hv-1/vm/$A\".*reason=\"the virtual machine is destroyed\""; }
check "the server asks the NAS of its session to end it" until_ready destroyed
link_is_closed() { ! nft list set inet gose-guests open | grep -q '"gv'; }
check "no link is open any more" until_ready link_is_closed
check "it starts again" until_ready create SE-A $A
routes
check "its port is closed" blocked $A
check "it authenticates" enter $A SE-A
kill -9 "$gosed"; wait "$gosed" 2>/dev/null || :
node
check "after kill -9 of the node no link is open" link_is_closed
check "the guests start again" guests
check "the port is closed" blocked $A

# A hook in place of nftables: filters and timeouts are its to serve.
cat >"$work/hook" <<EOF2
#!/bin/sh
echo "\$1 \$2 \$GOSE_DEVICE filter=\$GOSE_FILTER reason=\$GOSE_REASON" >>$work/hooked
EOF2
chmod +x "$work/hook"
configure "$udp" "$with_secret" 'port = "hook"' "hook = \"$work/hook\""
check "with a hook: the guests start" guests
check "guest B authenticates" enter $B SE-B short
check "the hook opened its port, with the server's filter" grep -q "^open $B gv[0-9a-f]* filter=guests" "$work/hooked"
hooked_timeout() { grep -q "^close $B .*reason=session-timeout" "$work/hooked"; }
check "after four seconds it closed it" until_ready hooked_timeout

# Servers: one that is away, one with another secret, RADIUS over TLS.
configure 'servers = ["127.0.0.1:1999", "127.0.0.1:1812"]' "$with_secret" "$nftables"
check "two servers, the first one away: the guests start" guests
check "guest A authenticates to the second one" enter $A SE-A
check "packets pass" passes $A
configure "$udp" "secret = \"file:$work/wrong\"" "$nftables"
check "a wrong secret: the guests start" guests
check "guest A is not let in" broken $A SE-A
check "its port stays closed" blocked $A
configure 'radsec = { node = "localhost:2083", name = "localhost" }' "$nftables"
check "RADIUS over TLS: the guests start" guests
check "guest A authenticates" enter $A SE-A
check "packets pass" passes $A

# FreeRADIUS is the server.
mkdir -p "$work/raddb/run"
echo '$INCLUDE /usr/share/freeradius/dictionary' >"$work/raddb/dictionary"
sed "s#@DIR@#$work/raddb#g; s#@KEY@#$pki/freeradius.key#; s#@CERTIFICATE@#$pki/freeradius.pem#; s#@CA@#$pki/good/ca.pem#" \
    "$folder/radiusd.conf" >"$work/raddb/radiusd.conf"
daemon freeradius -f -d "$work/raddb"
until_ready gose eap status --server 127.0.0.1:1822 --secret "file:$work/secret" --timeout-s 1
configure 'servers = ["127.0.0.1:1822"]' "$with_secret" "$nftables"
check "FreeRADIUS: the guests start" guests
check "guest A authenticates" enter $A SE-A
check "packets pass" passes $A
check "the Session-Timeout that FreeRADIUS gave is over: the port closes" blocked_within 80 $A
configure 'radsec = { node = "localhost:2093", name = "localhost" }' "$nftables"
check "FreeRADIUS over TLS: the guests start" guests
check "guest A authenticates" enter $A SE-A
check "packets pass" passes $A
check "Session-Timeout closes the port" blocked_within 80 $A
finish
