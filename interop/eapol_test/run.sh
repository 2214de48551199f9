#!/bin/sh
# eapol_test (wpa_supplicant's EAP peer over RADIUS) against server elements of GoSE.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"

authority good
authority other
for key in rsa2048 rsa3072 p256 p384; do
    file_key "peer-$key" "$key"
    sign good client "$pki/peer-$key.csr" "$pki/peer-$key.pem"
done
for bad in expired revoked stranger; do file_key "$bad" p256; done
sign good client "$pki/expired.csr" "$pki/expired.pem" -startdate 20200101000000Z -enddate 20200201000000Z
sign good client "$pki/revoked.csr" "$pki/revoked.pem"
sign other client "$pki/stranger.csr" "$pki/stranger.pem"
openssl ca -config "$pki/good/ca.cnf" -revoke "$pki/revoked.pem" 2>/dev/null
openssl ca -config "$pki/good/ca.cnf" -gencrl -out "$pki/crl.pem" 2>/dev/null

slots p256 p384 rsa2048 rsa3072 small >"$work/gosed.toml"
node
for seid in p256 p384 rsa2048 rsa3072; do
    element "$seid" "$seid" good server --crl "$pki/crl.pem"
done
element small p256 good server --crl "$pki/crl.pem" --fragment-size 100

printf testing123 >"$work/secret"
company() {
    printf '[[authentication-server.company]]\nname = "%s"\nrealms = ["%s.test"]\nelements = ["%s"]\n' "$1" "$1" "$1"
    printf 'identity = "server"\npin = "file:%s"\nallow = ["*"]\n' "$work/$1.pin"
}
{
    cat <<EOF
[authentication-server]
elements = ["p256"]
identity = "server"
pin = "file:$work/p256.pin"
allow = ["*"]
[authentication-server.reply]
vlan = 42
session-timeout-s = 3600
EOF
    for seid in p384 rsa2048 rsa3072 small; do company "$seid"; done
    cat <<EOF
[authentication-server.radius]
listen = ["127.0.0.1:1812", "[::1]:1812"]
accounting = ["127.0.0.1:1813"]
[[authentication-server.radius.client]]
name = "ipv4"
network = "127.0.0.0/8"
secret = "file:$work/secret"
[[authentication-server.radius.client]]
name = "ipv6"
network = "::1"
secret = "file:$work/secret"
EOF
} >>"$work/gosed.toml"
renode

# network REALM VERSION PEER [LINES …]: the configuration of a peer.
network() {
    realm=$1 version=$2 peer=$3
    shift 3
    case $version in
    1.2) phase1="tls_disable_tlsv1_3=1 tls_disable_tlsv1_2=0" ;;
    *) phase1="tls_disable_tlsv1_3=0" ;;
    esac
    echo 'network={'
    printf '  key_mgmt=IEEE8021X\n  eap=TLS\n  eapol_flags=0\n  identity="%s@%s.test"\n' "$peer" "$realm"
    printf '  ca_cert="%s"\n  phase1="%s"\n' "$pki/good/ca.pem" "$phase1"
    [ "$peer" = none ] || printf '  client_cert="%s"\n  private_key="%s"\n' "$pki/$peer.pem" "$pki/$peer.key"
    for line; do echo "  $line"; done
    echo '}'
}

# accepted COUNT [FLAGS …]: SUCCESS so many times, with the same keys on both ends.
accepted() {
    count=$1
    shift
    eapol_test -c "$work/peer.conf" -s testing123 -t "${patience:-20}" "$@" >"$work/eapol.log" 2>&1 || { tail -30 "$work/eapol.log"; return 1; }
    tail -1 "$work/eapol.log" | grep -q '^SUCCESS$' && grep -q "^MPPE keys OK: $count  mismatch: 0" "$work/eapol.log"
}
rejected() {
    ! eapol_test -c "$work/peer.conf" -a 127.0.0.1 -s testing123 -t 10 >"$work/eapol.log" 2>&1 &&
        grep -q 'EAP-Failure\|CTRL-EVENT-EAP-FAILURE\|EAP: Received EAP-Failure' "$work/eapol.log"
}

for realm in p256 p384 rsa2048 rsa3072; do
    for version in 1.2 1.3; do
        network $realm $version "peer-$realm" >"$work/peer.conf"
        check "$realm, TLS $version, full and resumed" accepted 2 -a 127.0.0.1 -r 1
    done
done
check "a session was resumed with TLS 1.2" log_has 'verdict="accept".*version="0303".*resumed=true'
check "a session was resumed with TLS 1.3" log_has 'verdict="accept".*version="0304".*resumed=true'
for size in 100 300 1300; do
    for version in 1.2 1.3; do
        network small $version peer-rsa2048 "fragment_size=$size" >"$work/peer.conf"
        check "TLS $version, fragments of 100 from the server and $size from the peer" accepted 2 -a 127.0.0.1 -r 1
    done
done
network p256 1.3 peer-p256 >"$work/peer.conf"
check "IPv6" accepted 1 -a ::1
network p256 1.3 peer-p256 'anonymous_identity="@p256.test"' >"$work/peer.conf"
check "anonymous identity" accepted 1 -a 127.0.0.1
check "the name in the certificate counts, not the identity" log_has 'identity="@p256.test".*peer="peer-p256"'
check "reply attributes of the policy" sh -c "grep -A2 'Attribute 81 (Tunnel-Private-Group-Id)' '$work/eapol.log' | grep -q \"'42'\|3432\""
network nowhere.else 1.3 peer-p256 >"$work/peer.conf"
check "a realm that no company has" accepted 1 -a 127.0.0.1
for version in 1.2 1.3; do
    for peer in expired revoked stranger; do
        network p256 $version $peer >"$work/peer.conf"
        check "TLS $version, $peer: rejected" rejected
    done
    network p256 $version none >"$work/peer.conf"
    check "TLS $version, no certificate: rejected" rejected
    network p256 $version peer-p256 >"$work/peer.conf"
    sed -i "s#$pki/good/ca.pem#$pki/other/ca.pem#" "$work/peer.conf"
    check "TLS $version, the peer trusts another authority: rejected" rejected
done
network p256 1.2 peer-p256 >"$work/peer.conf"
check "wrong secret: no answer" sh -c "! eapol_test -c $work/peer.conf -a 127.0.0.1 -s wrong -t 3"
network p256 1.3 peer-p256 >"$work/peer.conf"
check "others go on" accepted 1 -a 127.0.0.1

# eapol_test waits 0.1 s before each further authentication: ten do 100 each.
thousand() {
    for peer in $(seq 10); do
        eapol_test -c "$work/peer.conf" -a 127.0.0.1 -s testing123 -t 80 -r 99 >"$work/row.$peer" 2>&1 &
        rows="${rows:-} $!"
    done
    for row in $rows; do wait "$row" || return 1; done
    [ "$(grep -l '^MPPE keys OK: 100  mismatch: 0' "$work"/row.* | wc -l)" = 10 ]
}
check "1,000 authentications in ten rows, TLS 1.3" thousand
at_once() {
    peers=
    for peer in $(seq 50); do
        eapol_test -c "$work/peer.conf" -a 127.0.0.1 -s testing123 -t 30 >"$work/once.$peer" 2>&1 &
        peers="${peers:-} $!"
    done
    for peer in $peers; do wait "$peer" || return 1; done
    [ "$(grep -l '^MPPE keys OK: 1  mismatch: 0' "$work"/once.* | wc -l)" = 50 ]
}
check "50 at once on one element" at_once

status() {
    printf 'Message-Authenticator = 0x00\n' | radclient -t 2 -r 1 127.0.0.1:1812 status testing123 | grep -q 'Received Access-Accept'
}
check "radclient: Status-Server" status
accounting() {
    printf 'Acct-Status-Type = Start\nAcct-Session-Id = "0001"\nUser-Name = "peer"\n' |
        radclient -t 2 -r 1 127.0.0.1:1813 acct testing123 | grep -q 'Received Accounting-Response'
}
check "radclient: accounting" accounting
check "accounting is logged" log_has 'accounting.*session="0001"'

cp "$work/gosed.toml" "$work/with-elements.toml"
# The same with TLS on the host and nothing but the keys in the elements.
on_host() {
    sed -n 's/^piv-pin = "\(.*\)"$/\1/p' "$work/$1.secrets" >"$work/$1.piv-pin"
    printf 'tls-on-host = { key = { seid = "%s", slot = "9A", pin = "file:%s" }, certificate-file = "%s", ' \
        "$1" "$work/$1.piv-pin" "$pki/$1.pem"
    printf 'anchor-files = ["%s"], crl-files = ["%s"]%s }\n' "$pki/good/ca.pem" "$pki/crl.pem" "$2"
}
{
    sed '/^\[authentication-server\]/,$d' "$work/gosed.toml"
    printf '[authentication-server]\nallow = ["*"]\n'
    on_host p256 ""
    for seid in p384 rsa2048 rsa3072 small; do
        printf '[[authentication-server.company]]\nname = "%s"\nrealms = ["%s.test"]\nallow = ["*"]\n' $seid $seid
        size=
        [ $seid != small ] || size=', fragment-size = 100'
        on_host $seid "$size"
    done
    sed -n '/^\[authentication-server.radius\]/,$p' "$work/gosed.toml"
} >"$work/on-host.toml"
mv "$work/on-host.toml" "$work/gosed.toml"
renode
for realm in p256 p384 rsa2048 rsa3072; do
    for version in 1.2 1.3; do
        network $realm $version "peer-$realm" >"$work/peer.conf"
        check "TLS on the host, $realm, TLS $version, full and twice resumed" accepted 3 -a 127.0.0.1 -r 2
    done
done
for version in 1.2 1.3; do
    network small $version peer-rsa2048 "fragment_size=100" >"$work/peer.conf"
    check "TLS on the host, TLS $version, fragments of 100" accepted 2 -a 127.0.0.1 -r 1
    for peer in expired revoked stranger none; do
        network p256 $version $peer >"$work/peer.conf"
        check "TLS on the host, TLS $version, $peer: rejected" rejected
    done
done
network p256 1.3 peer-p256 >"$work/peer.conf"
check "TLS on the host: 50 at once" at_once
# Clocks that are wrong. The certificates live for a week; libfaketime moves one end alone. The server's element takes its
# host's time.
libfaketime=$(dpkg -L libfaketime | grep '/libfaketimeMT.so.1$')
restarted_at() {
    kill "$gosed"; wait "$gosed" || :
    daemon env LD_PRELOAD="$libfaketime" FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME="$1" "$bin/gosed" run --config "$work/gosed.toml"
    gosed=${daemons##* }
    until_ready "$bin/gose" element list
}
with_elements="$work/with-elements.toml"
for place in host elements; do
    if [ $place = elements ]; then cp "$with_elements" "$work/gosed.toml"; fi
    for shift in +30d -30d; do
        restarted_at $shift
        for version in 1.2 1.3; do
            network p256 $version peer-p256 >"$work/peer.conf"
            check "TLS $version, server's clock $shift, TLS on $place: rejected" rejected
        done
    done
    renode
    check "the server's clock is right again, TLS on $place" accepted 2 -a 127.0.0.1 -r 1
    for shift in +30d -30d; do
        for version in 1.2 1.3; do
            network p256 $version peer-p256 >"$work/peer.conf"
            check "TLS $version, the peer's clock $shift, TLS on $place: no success" \
                sh -c "! LD_PRELOAD=$libfaketime FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME=$shift eapol_test -c $work/peer.conf -a 127.0.0.1 -s testing123 -t 10"
        done
    done
done
check "no secret is in the log" sh -c "! grep -qi 'testing123\|msk\|mppe' $work/daemons.log"
finish
