#!/bin/sh
# wpa_supplicant in a namespace, hostapd with the wired driver at the other end of the cable, GoSE as RADIUS server: a port
# really opens, and closes by logoff, by Disconnect-Request and when a session's time is over. The last ones have their key in an
# element of a grid, through libgose_pkcs11.so.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"

authority good
authority other
for peer in first second third stranger guest; do file_key $peer p256; done
for peer in first second third guest; do sign good client "$pki/$peer.csr" "$pki/$peer.pem"; done
file_key grid p256
sign good server "$pki/grid.csr" "$pki/grid.pem"
sign other client "$pki/stranger.csr" "$pki/stranger.pem"
openssl ca -config "$pki/good/ca.cnf" -gencrl -out "$pki/crl.pem" 2>/dev/null

slots element key short once ec rsa >"$work/gosed.toml"
node
for seid in element key short once; do element $seid p256 good server; done
element ec p256 good client
element rsa rsa2048 good client
for seid in element key short once ec rsa; do
    sed -n 's/^piv-pin = "\(.*\)"$/\1/p' "$work/$seid.secrets" >"$work/$seid.piv-pin"
done
printf testing123 >"$work/secret"
# The guest's own way to its elements: a link that has nothing to do with the port.
ip netns add guest
ip link add own type veth peer name grid netns guest
ip address add 10.8.0.1/24 dev own
ip link set own up
ip -n guest address add 10.8.0.2/24 dev grid
ip -n guest link set grid up
ip -n guest link set lo up
sed -i 's/^kind = "software"/&\ndefault = "allow"/' "$work/gosed.toml"
cat >>"$work/gosed.toml" <<EOF2
[listen]
address = "10.8.0.1:7777"
[tls]
certificate-file = "$pki/grid.pem"
key = { file = "$pki/grid.key" }
user-anchor-files = ["$pki/good/ca.pem"]
[[user]]
cn = "guest"
seid = ["ec", "rsa"]
[authentication-server]
revoked-file = "$work/revoked.json"
elements = ["element"]
identity = "server"
pin = "file:$work/element.pin"
allow = ["*"]
[[authentication-server.company]]
name = "host"
realms = ["host.test"]
allow = ["*"]
tls-on-host = { key = { seid = "key", slot = "9A", pin = "file:$work/key.piv-pin" }, certificate-file = "$pki/key.pem", anchor-files = ["$pki/good/ca.pem"], crl-files = ["$pki/crl.pem"] }
[[authentication-server.company]]
name = "short"
realms = ["short.test"]
allow = ["*"]
tls-on-host = { key = { seid = "short", slot = "9A", pin = "file:$work/short.piv-pin" }, certificate-file = "$pki/short.pem", anchor-files = ["$pki/good/ca.pem"] }
[authentication-server.company.reply]
session-timeout-s = 4
[[authentication-server.company]]
name = "once"
realms = ["once.test"]
elements = ["once"]
identity = "server"
pin = "file:$work/once.pin"
allow = ["*"]
[authentication-server.company.reply]
session-timeout-s = 4
session-ends = true
filter = "guests"
[authentication-server.radius]
listen = ["127.0.0.1:1812"]
accounting = ["127.0.0.1:1813"]
[[authentication-server.radius.client]]
name = "switch"
network = "127.0.0.1"
secret = "file:$work/secret"
disconnect-port = 3799
EOF2
renode

# The cable, and a gate that lets through whoever hostapd says.
ip link add port type veth peer name wire
ip link set wire netns guest
ip address add 10.9.0.1/24 dev port
ip link set port up
ip netns exec guest ip address add 10.9.0.2/24 dev wire
ip netns exec guest ip link set wire up
nft -f - <<'EOF2'
table inet gate {
    set open { type ether_addr; }
    chain input {
        type filter hook input priority 0;
        iifname "port" ether saddr != @open drop
    }
}
EOF2
cat >"$work/gate" <<'EOF2'
#!/bin/sh
case $2 in
AP-STA-CONNECTED) nft add element inet gate open "{ $3 }" ;;
AP-STA-DISCONNECTED) nft delete element inet gate open "{ $3 }" ;;
esac
EOF2
chmod +x "$work/gate"

cat >"$work/hostapd.conf" <<EOF2
interface=port
driver=wired
ctrl_interface=$work/hostapd
ieee8021x=1
use_pae_group_addr=1
eap_reauth_period=3600
own_ip_addr=127.0.0.1
nas_identifier=switch
auth_server_addr=127.0.0.1
auth_server_port=1812
auth_server_shared_secret=testing123
acct_server_addr=127.0.0.1
acct_server_port=1813
acct_server_shared_secret=testing123
radius_das_port=3799
radius_das_client=127.0.0.1 testing123
radius_das_time_window=300
radius_das_require_event_timestamp=1
radius_das_require_message_authenticator=1
logger_stdout=-1
logger_stdout_level=1
EOF2
daemon hostapd "$work/hostapd.conf"
until_ready test -S "$work/hostapd/port"
daemon hostapd_cli -p "$work/hostapd" -i port -a "$work/gate"
sleep 0.3

# supplicant PEER REALM [LINES …]: a wpa_supplicant with this peer's key, in the guest's namespace; each is another
# station to the switch.
stations=0
supplicant() {
    peer=$1 realm=$2
    shift 2
    stations=$((stations + 1))
    ip netns exec guest ip link set wire address "02:00:00:00:00:0$stations"
    {
        printf 'ctrl_interface=%s\nap_scan=0\neapol_version=2\n%s\nnetwork={\n' "$work/supplicant" "${globals:-}"
        printf '  key_mgmt=IEEE8021X\n  eap=TLS\n  eapol_flags=0\n  identity="%s@%s"\n' "$peer" "$realm"
        printf '  ca_cert="%s"\n  phase1="tls_disable_tlsv1_3=0"\n' "$pki/good/ca.pem"
        if [ $# -gt 0 ]; then
            for line; do echo "  $line"; done
        else
            printf '  client_cert="%s"\n  private_key="%s"\n' "$pki/$peer.pem" "$pki/$peer.key"
        fi
        echo '}'
    } >"$work/supplicant.conf"
    # Not by `daemon`: it ends before the others.
    ip netns exec guest wpa_supplicant -D wired -i wire -c "$work/supplicant.conf" >>"$work/supplicant.log" 2>&1 &
    supplicant=$!
    daemons="$daemons $supplicant"
    until_ready test -S "$work/supplicant/wire"
}
no_supplicant() {
    kill -CONT "$supplicant"
    kill "$supplicant"
    wait "$supplicant" 2>/dev/null || :
}
tell() { ip netns exec guest wpa_cli -p "$work/supplicant" -i wire "$@" >/dev/null; }
ping_once() { ip netns exec guest ping -c 1 -W 1 10.9.0.1 >/dev/null 2>&1; }
until_logged() { for _ in $(seq 20); do if log_has "$1"; then return 0; fi; sleep 0.1; done; return 1; }
# open WITHIN: a ping passes within so many tenths of a second; shut WITHIN: none does any more.
open() { for _ in $(seq "$1"); do if ping_once; then return 0; fi; sleep 0.1; done; return 1; }
shut() { for _ in $(seq "$1"); do if ! ping_once; then return 0; fi; sleep 0.1; done; return 1; }
stays_shut() { for _ in 1 2 3; do if ping_once; then return 1; fi; done; }

check "before: no ping passes" stays_shut
supplicant first gose.test
check "TLS in an element: the port opens, a ping passes" open 50
check "accounting told the session" until_logged 'accounting client="switch" status=1 session="'
tell logoff
check "logoff: the port closes" shut 30
tell logon
check "logon: it opens again" open 50
no_supplicant

supplicant stranger gose.test
check "a peer of another authority: the port closes" shut 50
check "and stays closed" stays_shut
no_supplicant

supplicant second gose.test
check "another peer: the port opens" open 100
"$bin/gose" eap revoke second >"$work/revoked"
check "gose eap revoke: one session" grep -q '^1 sessions end' "$work/revoked"
check "gose eap revoke: hostapd closes the port" shut 30
check "hostapd acknowledges the Disconnect-Request" until_logged 'session disconnected.*peer="second"'
tell reassociate
check "a revoked peer is not let in again" stays_shut
no_supplicant

supplicant third host.test
check "TLS on the host: the port opens" open 100
openssl ca -config "$pki/good/ca.cnf" -revoke "$pki/third.pem" 2>/dev/null
openssl ca -config "$pki/good/ca.cnf" -gencrl -out "$pki/crl.pem" 2>/dev/null
kill -HUP "$gosed"
check "its certificate on a revocation list that is loaded: the port closes" shut 30
check "and stays closed" stays_shut
no_supplicant

supplicant first short.test
check "a session of four seconds: the port opens" open 100
sleep 6
check "the peer authenticates again in time: it is still open" ping_once
twice() { [ "$(sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -c 'identity="first@short.test".*verdict="accept"')" -ge 2 ]; }
check "it did so by itself" twice
no_supplicant

supplicant first once.test
check "a session of four seconds that ends then: the port opens" open 100
kill -STOP "$supplicant"
check "its time is over: the port closes, the peer says nothing" shut 80
no_supplicant

# radclient asks the same of hostapd: what it takes from us it takes from others.
supplicant first gose.test
check "the port opens once more" open 100
disconnect() {
    printf 'User-Name = "first@gose.test"\nCalling-Station-Id = "02-00-00-00-00-0%s"\nEvent-Timestamp = %s\nMessage-Authenticator = 0x00\n' \
        "$stations" "$(date +%s)" |
        radclient -x -t 2 -r 1 127.0.0.1:3799 disconnect testing123 >"$work/radclient" 2>&1
    cat "$work/radclient"
    grep -q 'Received Disconnect-ACK' "$work/radclient"
}
check "radclient's Disconnect-Request closes it too" disconnect
no_supplicant

# The key in an element: wpa_supplicant knows OpenSSL's engine, the engine knows the module, the module knows the grid.
# wpa_supplicant loads nothing from outside /usr/lib.
module=/usr/lib/x86_64-linux-gnu/pkcs11/libgose_pkcs11.so
mkdir -p "${module%/*}"
mount -t tmpfs tmpfs "${module%/*}"
cp "$bin/libgose_pkcs11.so" "$module"
cat >"$work/pkcs11.toml" <<EOF2
version = 1
[grid]
address = "10.8.0.1:7777"
name = "radius.gose.test"
certificate-file = "$pki/guest.pem"
key = { file = "$pki/guest.key" }
anchor-files = ["$pki/good/ca.pem"]
EOF2
export GOSE_PKCS11_CONF="$work/pkcs11.toml"
globals="pkcs11_engine_path=/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so
pkcs11_module_path=$module"
# with_element SEID PIN: a supplicant whose key is in this element.
with_element() {
    supplicant "$1" gose.test "client_cert=\"$pki/$1.pem\"" \
        "private_key=\"pkcs11:token=$1;object=9A;type=private;pin-value=$2\""
}
signs() { "$bin/gose" --json element use "$1" | python3 -c "import json, sys; use = json.load(sys.stdin); print(use['ecdsa-sign'] + use['rsa-private'])"; }
for seid in ec rsa; do
    before=$(signs $seid)
    with_element $seid "$(cat "$work/$seid.piv-pin")"
    check "wpa_supplicant with its key in an element, $seid: the port opens" open 100
    check "the element signed" test "$(signs $seid)" -gt "$before"
    check "the server saw that peer" log_has "peer=\"$seid\""
    tell logoff
    check "logoff closes it" shut 30
    no_supplicant
done
with_element ec 00000000
check "with a wrong PIN it stays closed" stays_shut
no_supplicant
globals=

metrics() { python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9777/metrics").read().decode(), end="")' >"$work/metrics"; }
check "metrics are served" metrics
check "promtool finds nothing wrong in them" promtool check metrics <"$work/metrics"
check "they count what happened here" sh -c "grep -q '^gose_radius_disconnects_total{outcome=\"acknowledged\"} [12]' $work/metrics &&
    grep -q '^gose_eap_conversations_total{verdict=\"accept\"} [1-9]' $work/metrics &&
    grep -q '^gose_certificate_expiry_timestamp_seconds{purpose=\"authentication-server host\"} [1-9]' $work/metrics"
check "nothing of a peer is in them" sh -c "! grep -q 'first@\|third\|gose.test\|testing123' $work/metrics"
finish
