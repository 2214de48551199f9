#!/bin/sh
# A pool of server elements of every kind: in software, with keys in a TPM, with keys in an HSM, a card in a reader, an
# element of a remote grid. Judge: eapol_test.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
. "$folder/../kinds.sh"
unset GOSE_SECRETS

# Peers, and the servers' certificates.
openssl ecparam -genkey -name prime256v1 -noout -out "$work/peer.key"
openssl req -new -key "$work/peer.key" -subj "/CN=peer" -out "$work/peer.csr"
# issue REQUEST CERTIFICATE USAGE
issue() {
    printf 'subjectAltName = DNS:radius.gose.test\nextendedKeyUsage = %s\nkeyUsage = digitalSignature\n' "$3" >"$work/usage"
    openssl x509 -req -in "$1" -CA "$work/root.pem" -CAkey "$work/root.key" -days 30 -extfile "$work/usage" -out "$2" 2>/dev/null
}
issue "$work/peer.csr" "$work/peer.pem" clientAuth
kinds="software tpm hsm reader remote"
# serves SEID ALGORITHM: an identity of the server's role on a key that is made there.
serves() {
    set -- "$1" "$2" --socket "$socket" --secrets "$work/$1.secrets"
    seid=$1 algorithm=$2
    shift 2
    gose key generate "$seid" 9A --alg "$algorithm" "$@" >/dev/null &&
        gose key csr "$seid" 9A --name "$seid" --out "$work/$seid.csr" "$@" >/dev/null &&
        issue "$work/$seid.csr" "$work/$seid.pem" serverAuth &&
        gose identity add "$seid" "server-$algorithm" --role authenticator --chain "$work/$seid.pem" --anchors "$work/root.pem" "$@" >/dev/null
}
for seid in $kinds; do
    # One identity has one PIN: where the file is there, its secrets are taken.
    [ "$seid" = software ] || sed "s/software/$seid/" "$work/software.secrets" >"$work/$seid.secrets"
    chmod 600 "$work"/*.secrets 2>/dev/null || :
    gose element init "$seid" --socket "$socket" --secrets-file "$work/$seid.secrets" >/dev/null
    sed -n 's/^bearer-pin = "\(.*\)"/\1/p' "$work/$seid.secrets" >"$work/node/$seid.bearer"
    chmod 600 "$work/node/$seid.bearer"
    check "$seid: has a server's identity, P-256" serves "$seid" p256
done
printf testing123 >"$work/node/secret"
chmod 600 "$work/node/secret"
# Without the card that OpenSC knows, which is the last slot: it serves nothing here.
sed '/^seid = "opensc"$/,$d' "$work/node/gosed.toml" | sed '$d' >"$work/before.toml"
# served: the node anew, with the lines that come in.
served() {
    kill "$running" && wait "$running" || :
    rm -f "$socket"
    { cat "$work/before.toml" -; printf '[metrics]\naddress = "127.0.0.1:9778"\n'; printf '[authentication-server.radius]\nlisten = ["127.0.0.1:1812"]\npreempt-s = 20\n'
      printf '[[authentication-server.radius.client]]\nname = "here"\nnetwork = "127.0.0.1"\nsecret = "file:secret"\n'; } >"$work/node/gosed.toml"
    OPENSC_CONF="$work/opensc.conf" start node
    running=${daemons##* }
    until_ready gose eap status --server 127.0.0.1:1812 --secret "file:$work/node/secret" --timeout-s 1
}
# each LABEL: every kind for itself, chosen by the realm.
each() {
    printf '[authentication-server]\nrevoked-file = "revoked.json"\nelement-wait-s = 1\nelements = ["software"]\nidentity = "%s"\npin = "file:software.bearer"\nallow = ["peer"]\n' "$1"
    for seid in tpm hsm reader remote; do
        printf '[[authentication-server.company]]\nname = "%s"\nrealms = ["%s.test"]\nelements = ["%s"]\nidentity = "%s"\npin = "file:%s.bearer"\nallow = ["peer"]\n' \
            "$seid" "$seid" "$seid" "$1" "$seid"
    done
}
# network REALM VERSION [LINES …]
network() {
    case $2 in
    1.2) phase1="tls_disable_tlsv1_3=1 tls_disable_tlsv1_2=0" ;;
    *) phase1="tls_disable_tlsv1_3=0" ;;
    esac
    printf 'network={\n  key_mgmt=IEEE8021X\n  eap=TLS\n  eapol_flags=0\n  identity="peer@%s.test"\n  ca_cert="%s"\n' "$1" "$work/root.pem"
    printf '  client_cert="%s"\n  private_key="%s"\n  phase1="%s"\n' "$work/peer.pem" "$work/peer.key" "$phase1"
    shift 2
    for line; do echo "  $line"; done
    echo '}'
}
# accepted FILE: SUCCESS, with the same keys on both ends.
accepted() { eapol_test -c "$1" -s testing123 -t 30 >"$1.log" 2>&1 && grep -q '^MPPE keys OK: 1  mismatch: 0' "$1.log"; }
# replug: the card into the reader again. (vpcd does not poll a card that comes just when another one left.)
replug() {
    for _ in 1 2 3 4; do
        plug card 35963
        card=${daemons##* }
        for _ in $(seq 40); do if holds_card 00; then return 0; fi; sleep 0.1; done
        kill "$card"; wait "$card" 2>/dev/null || :
    done
    echo "the card is not seen"; exit 1
}
log_has() { sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -q "$1"; }

each server-p256 >"$work/each.toml"
served <"$work/each.toml"
for seid in $kinds; do
    for version in 1.3 1.2; do
        network $seid $version >"$work/peer-$seid"
        check "$seid: a server element, TLS $version, P-256" accepted "$work/peer-$seid"
    done
    check "$seid: the log names the element" log_has "identity=\"peer@$seid.test\".*element=\"$seid\".*verdict=\"accept\""
done

# Pulled in the middle: a peer with many fragments is stopped while its element is at work.
# pulled REALM: starts such a peer and stops it on its way; its process is $peer.
stopped() {
    network "$1" 1.3 fragment_size=100 >"$work/slow"
    for _ in $(seq 10); do
        stdbuf -oL eapol_test -c "$work/slow" -s testing123 -t 40 >"$work/slow.log" 2>&1 &
        peer=$!
        until grep -q 'handshake/server hello' "$work/slow.log" || ! kill -0 $peer 2>/dev/null; do sleep 0.005; done
        kill -STOP $peer 2>/dev/null || :
        if ! grep -q '^SUCCESS\|EAP: Status notification: completion' "$work/slow.log"; then return 0; fi
        kill -CONT $peer 2>/dev/null || :
        wait $peer || :
    done
    return 1
}
fails_alone() {
    kill -CONT $peer
    ! wait $peer && ! grep -q '^SUCCESS' "$work/slow.log"
}
check "reader: a peer is on its way" stopped reader
# It holds its element: another one finds none free.
overloaded() { python3 -c 'import urllib.request; print(urllib.request.urlopen("http://127.0.0.1:9778/metrics").read().decode())' | sed -n 's/^gose_radius_overloaded_total //p'; }
check "before: the metrics count no overload" test "$(overloaded)" = 0
check "reader: another peer finds its element taken" sh -c "! eapol_test -c $work/peer-reader -s testing123 -t 4"
check "the metrics count the overload" test "$(overloaded)" -ge 1
kill "$card"; wait "$card" 2>/dev/null || :
check "the card is pulled: other elements serve" sh -c '
    for seid in software tpm hsm remote; do eapol_test -c '"$work"'/peer-$seid -s testing123 -t 30 | tail -1 | grep -q "^SUCCESS$" || exit 1; done'
check "that peer fails, cleanly" fails_alone
check "and is told so" grep -q 'EAP-Failure\|CTRL-EVENT-EAP-FAILURE\|EAP: Received EAP-Failure' "$work/slow.log"
replug
check "the card is back: it serves again" until_ready accepted "$work/peer-reader"

check "remote: a peer is on its way" stopped remote
kill "$far"; wait "$far" 2>/dev/null || :
check "the grid is gone: other elements serve" sh -c '
    for seid in software tpm hsm; do eapol_test -c '"$work"'/peer-$seid -s testing123 -t 30 | tail -1 | grep -q "^SUCCESS$" || exit 1; done'
check "that peer fails, cleanly" fails_alone
rm -f "$work/far/admin.sock"
start far
far=${daemons##* }
replug
check "the grid is back: it serves again" until_ready accepted "$work/peer-remote"

# One pool of all of them.
served <<END
[authentication-server]
revoked-file = "revoked.json"
elements = ["software", "remote", "reader", "tpm", "hsm"]
identity = "server-p256"
pin = "file:software.bearer"
allow = ["peer"]
END
# at_once COUNT: how many of so many peers get in.
at_once() {
    rows=
    for row in $(seq "$1"); do
        network gose 1.3 >"$work/row.$row"
        eapol_test -c "$work/row.$row" -s testing123 -t 60 >"$work/row.$row.log" 2>&1 &
        rows="$rows $!"
    done
    [ -z "${2:-}" ] || { sleep 0.3; kill "$2"; }
    for row in $rows; do wait "$row" || :; done
    entered=$(grep -l '^MPPE keys OK: 1  mismatch: 0' "$work"/row.*.log | wc -l)
    echo "$entered of $1 are in"
}
all_in() { at_once "$1"; [ "$entered" = "$1" ]; }
check "one pool of five kinds: 40 peers at once get in" all_in 40
used() { for seid in $kinds; do log_has "identity=\"peer@gose.test\".*element=\"$seid\".*verdict=\"accept\"" || { echo "not $seid"; return 1; }; done; }
check "each kind served some of them" used
# Whoever had the reader's element at that moment is lost, and nobody else.
one_out() { at_once 40 "$card"; [ "$entered" -ge 39 ]; }
check "the card is pulled while 40 peers come: one fails at most" one_out
replug
check "the card is back: 40 get in" all_in 40
finish
