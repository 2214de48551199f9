#!/bin/sh
# gose tls connect against openssl s_server: TLS by an element's key, records on the host and in the element.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"

authority good
authority other
slots p256 rsa2048 stranger >"$work/gosed.toml"
node
for seid in p256 rsa2048; do
    element "$seid" "$seid" good client
    identity "$seid" tls12 good --max-version 1.2
    identity "$seid" kept good --no-key-block
    identity "$seid" elsewhere other
done
element stranger p256 other client
identity stranger client good
file_key server p256
sign good server "$pki/server.csr" "$pki/server.pem"

# server VERSION PORT: asks for a certificate, and sends every line back, reversed.
server() {
    daemon openssl s_server -accept "127.0.0.1:$2" "-$1" -rev -Verify 1 -verify_return_error \
        -CAfile "$pki/good/ca.pem" -cert "$pki/server.pem" -key "$pki/server.key"
    until_ready sh -c "ss -ltn | grep -q 127.0.0.1:$2"
}
server tls1_2 4412
server tls1_3 4413

# connect SEID LABEL PORT [FLAGS …]: standard input to the server and back.
server_name=radius.gose.test
connect() {
    seid=$1 label=$2 port=$3
    shift 3
    GOSE_SECRETS="$work/$seid.secrets" timeout 30 "$bin/gose" tls connect "$seid" "$label" "127.0.0.1:$port" \
        --tls-name "$server_name" --timeout-s 5 "$@"
}

# there_and_back PORT VERSION SEID LABEL RECORDS: a line comes back, reversed, and what was agreed on is told.
there_and_back() {
    port=$1 version=$2
    echo "a line of the element" | connect "$3" "$4" "$port" --records "$5" --json >"$work/line" 2>"$work/told" ||
        { cat "$work/told"; return 1; }
    cat "$work/line" "$work/told"
    [ "$(cat "$work/line")" = "tnemele eht fo enil a" ] && grep -q "\"version\":\"$version\"" "$work/told" &&
        grep -q "\"records\":\"$5\"" "$work/told"
}

# refused PATTERN COMMAND …: ends with status 2, and says this.
refused() {
    pattern=$1 status=0
    shift
    echo line | "$@" >"$work/line" 2>"$work/told" || status=$?
    cat "$work/told"
    [ $status = 2 ] && [ ! -s "$work/line" ] && grep -q -e "$pattern" "$work/told"
}

# resumed PORT VERSION LABEL: a session whose ticket the element took is resumed by a later one.
resumed() {
    there_and_back "$1" "$2" p256 "$3" element || return 1
    there_and_back "$1" "$2" p256 "$3" element && grep -q '"resumed":true' "$work/told"
}

# many PORT RECORDS: lines of 100 kB in all, every one reversed.
many() {
    seq -f 'line %05g of one hundred kilobytes, as long as this' 2000 >"$work/lines"
    connect p256 client "$1" --records "$2" <"$work/lines" >"$work/back" || return 1
    rev "$work/lines" | cmp - "$work/back"
}

for seid in p256 rsa2048; do
    for records in host element; do
        check "$seid, TLS 1.2, records: $records" there_and_back 4412 1.2 $seid client $records
        check "$seid, TLS 1.3, records: $records" there_and_back 4413 1.3 $seid client $records
    done
done
check "TLS 1.2: resumed" resumed 4412 1.2 tls12
check "TLS 1.3: resumed" resumed 4413 1.3 client
for port in 4412 4413; do
    check "port $port: 100 kB, records: host" many $port host
    check "port $port: 100 kB, records: element" many $port element
    check "port $port: keys that stay in the element: told what to do" \
        refused "--records element" connect p256 kept $port
    check "port $port: the element does not trust the server" refused "--anchors" connect p256 elsewhere $port
    check "port $port: the server does not trust the element" refused "alert 48" connect stranger client $port
    server_name=other.gose.test
    check "port $port: another name than the server's" refused "--tls-name" connect p256 client $port
    server_name=radius.gose.test
done
check "keys that stay in the element, records there" there_and_back 4413 1.3 p256 kept element
check "nobody listens" refused "does a server listen there" connect p256 client 4414
finish
