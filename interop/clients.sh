# Sourced after elements.sh: elements that authenticate to a foreign server, and what they must come to.

# client_elements: a node with elements for every algorithm, identities for every version.
client_elements() {
    slots p256 p384 rsa2048 rsa3072 stranger expired revoked >"$work/gosed.toml"
    node
    for seid in p256 p384 rsa2048 rsa3072; do
        element "$seid" "$seid" good client
        identity "$seid" tls12 good --max-version 1.2
        identity "$seid" tls13 good --min-version 1.3 --accept-missing-commitment
    done
    identity p256 small12 good --max-version 1.2 --fragment-size 100
    identity p256 small13 good --min-version 1.3 --fragment-size 100
    identity p256 named good --expect radius.gose.test
    identity p256 misnamed good --expect other.gose.test
    identity p256 distrust good
    GOSE_SECRETS="$work/p256.secrets" "$bin/gose" identity add p256 distrust --eap-id "@gose.test" \
        --chain "$pki/p256.pem" --anchors "$pki/other/ca.pem" >/dev/null
    element stranger p256 other client
    identity stranger client good
    element expired p256 good client
    sign good client "$pki/expired.csr" "$pki/expired.pem" -startdate 20200101000000Z -enddate 20200201000000Z
    identity expired client good
    element revoked p256 good client
    openssl ca -config "$pki/good/ca.cnf" -revoke "$pki/revoked.pem" 2>/dev/null
    openssl ca -config "$pki/good/ca.cnf" -gencrl -out "$pki/crl.pem" 2>/dev/null
    cat "$pki/good/ca.pem" "$pki/crl.pem" >"$pki/ca-and-crl.pem"
    printf testing123 >"$work/secret"
}

# test_element SEID LABEL [FLAGS …]
test_element() {
    seid=$1 label=$2
    shift 2
    GOSE_SECRETS="$work/$seid.secrets" "$bin/gose" eap test "$seid" "$label" --server "$server" \
        --secret "file:$work/secret" --timeout-s 10 "$@"
}

# full_and_resumed SEID LABEL VERSION: three authentications, a later one resumed, the same keys on both ends.
# (FreeRADIUS resumes every second TLS 1.3 session; hostapd rejects the first of its two tickets.)
full_and_resumed() {
    test_element "$1" "$2" --count "$attempts" --json >"$work/report.json" || { cat "$work/report.json"; return 1; }
    cat "$work/report.json"
    python3 - "$work/report.json" "$3" <<'EOF'
import json, sys
reports = json.load(open(sys.argv[1]))["authentications"]
assert all(one["keys_match"] for one in reports), "keys"
assert all(one["version"] == sys.argv[2] for one in reports), "version"
assert not reports[0]["resumed"] and any(one["resumed"] for one in reports[1:]), "resumption"
EOF
}

# matrix ALGORITHM …: what every server must pass with the elements of these algorithms.
matrix() {
    for seid; do
        check "$server_name, $seid, TLS 1.2, full and resumed" full_and_resumed "$seid" tls12 1.2
        check "$server_name, $seid, TLS 1.3, full and resumed" full_and_resumed "$seid" tls13 1.3
    done
}

# refusals: who is not let in, and whom the element does not trust.
refusals() {
    check "$server_name: fragments of 100, TLS 1.2" test_element p256 small12
    check "$server_name: fragments of 100, TLS 1.3" test_element p256 small13
    check "$server_name: the server's name is the expected one" test_element p256 named
    check "$server_name: the server has another name: the element refuses" test_element p256 misnamed --expect-reject
    check "$server_name: another authority: the element refuses" test_element p256 distrust --expect-reject
    for seid in stranger expired revoked; do
        check "$server_name: $seid element: rejected" test_element $seid client --expect-reject
    done
    check "$server_name: others go on" test_element p256 client
}
