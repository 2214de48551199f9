#!/bin/sh
# radsecproxy between eapol_test and server elements, RADIUS over TLS behind it; tshark reads what was said over UDP.
. "$(dirname "$0")/../begin.sh"
. "$folder/../elements.sh"

authority good
authority other
for key in peer node proxy stranger; do file_key $key p256; done
sign good client "$pki/peer.csr" "$pki/peer.pem"
sign good server "$pki/node.csr" "$pki/node.pem"
sign good client "$pki/proxy.csr" "$pki/proxy.pem"
sign other client "$pki/stranger.csr" "$pki/stranger.pem"

slots srv >"$work/gosed.toml"
node
element srv p256 good server
printf testing123 >"$work/secret"
cat >>"$work/gosed.toml" <<EOF
[tls]
certificate-file = "$pki/node.pem"
key = { file = "$pki/node.key" }
user-anchor-files = ["$pki/good/ca.pem"]
[authentication-server]
elements = ["srv"]
identity = "server"
pin = "file:$work/srv.pin"
allow = ["*"]
[authentication-server.radius]
listen = ["127.0.0.1:1812"]
[[authentication-server.radius.client]]
name = "loopback"
network = "127.0.0.1"
secret = "file:$work/secret"
[authentication-server.radius.radsec]
listen = "127.0.0.1:2083"
anchor-files = ["$pki/good/ca.pem"]
clients = ["proxy"]
EOF
renode

# proxy NAME PORT: a radsecproxy with this certificate, for UDP clients on that port.
proxy() {
    cat >"$work/$1.conf" <<EOF
ListenUDP 127.0.0.1:$2
LogLevel 3
tls default {
    CACertificateFile $pki/good/ca.pem
    CertificateFile $pki/$1.pem
    CertificateKeyFile $pki/$1.key
}
client eapol {
    host 127.0.0.1
    type udp
    secret testing123
}
server gose {
    host 127.0.0.1
    port 2083
    type tls
    secret radsec
    CertificateNameCheck off
}
realm * {
    server gose
}
EOF
    daemon radsecproxy -f -c "$work/$1.conf"
    until_ready sh -c "ss -lun | grep -q 127.0.0.1:$2"
}
proxy proxy 1899
proxy stranger 1898

cat >"$work/peer.conf" <<EOF
network={
  key_mgmt=IEEE8021X
  eap=TLS
  eapol_flags=0
  identity="@gose.test"
  ca_cert="$pki/good/ca.pem"
  client_cert="$pki/peer.pem"
  private_key="$pki/peer.key"
  phase1="tls_disable_tlsv1_3=0"
}
EOF
# accepted PORT COUNT
accepted() {
    eapol_test -c "$work/peer.conf" -a 127.0.0.1 -p "$1" -s testing123 -t 20 -r $(($2 - 1)) >"$work/eapol.log" 2>&1 ||
        { tail -20 "$work/eapol.log"; return 1; }
    grep -q "^MPPE keys OK: $2  mismatch: 0" "$work/eapol.log"
}
check "eapol_test, radsecproxy, RADIUS over TLS: ten authentications" accepted 1899 10
check "the conversations came from the proxy by its certificate" log_has 'conversation client="proxy".*verdict="accept"'
check "a proxy of another authority gets nowhere" sh -c \
    "! eapol_test -c $work/peer.conf -a 127.0.0.1 -p 1898 -s testing123 -t 3"
status() {
    "$bin/gose" eap status --server 127.0.0.1:2083 --radsec --radsec-cert "$pki/proxy.pem" --radsec-key "$pki/proxy.key" \
        --radsec-ca "$pki/good/ca.pem" --radsec-name radius.gose.test
}
check "gose eap status over TLS" status
check "the server speaks TLS 1.3 only" sh -c \
    "! openssl s_client -connect 127.0.0.1:2083 -tls1_2 -cert $pki/proxy.pem -key $pki/proxy.key </dev/null"

tshark -q -i lo -w "$work/capture.pcap" -f 'udp port 1812' >"$work/tshark.log" 2>&1 &
tshark=$!
until_ready sh -c "grep -q Capturing $work/tshark.log && test -s $work/capture.pcap"
check "an authentication while tshark listens" accepted 1812 2
sleep 1
kill "$tshark"
wait "$tshark" || :
# frames FILTER: how many packets of the capture match; none where tshark does not know the filter.
frames() {
    tshark -r "$work/capture.pcap" -d udp.port==1812,radius -o radius.shared_secret:testing123 \
        -o radius.validate_authenticator:TRUE -Y "$1" >"$work/frames" 2>"$work/frames.log" || { echo none; return; }
    wc -l <"$work/frames"
}
check "tshark reads EAP-TLS in RADIUS" test "$(frames 'radius && eap.type == 13')" -gt 8
check "tshark finds no malformed packet" test "$(frames '_ws.malformed || _ws.expert.severity == error')" = 0
check "tshark finds every authenticator right" test "$(frames 'radius.authenticator.invalid == 1')" = 0
check "tshark sees Message-Authenticators" test "$(frames 'radius.Message_Authenticator')" -gt 8
check "every answer carries a Message-Authenticator" test \
    "$(frames 'udp.srcport == 1812 && !radius.Message_Authenticator')" = 0
finish
