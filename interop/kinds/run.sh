#!/bin/sh
# One node with elements of every kind, all behind the same door: in software, with keys in a TPM, with keys in
# an HSM, a card in a reader, an element of a remote grid. Judge: openssl verifies what each one signs.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"

# A TPM.
mkdir "$work/tpm"
swtpm_setup --tpm2 --tpmstate "$work/tpm" --createek --overwrite >"$work/daemons.log" 2>&1
tpm() {
    daemon swtpm socket --tpm2 --tpmstate "dir=$work/tpm" \
        --ctrl type=tcp,port=2322,bindaddr=127.0.0.1 --server type=tcp,port=2321,bindaddr=127.0.0.1 \
        --flags not-need-init,startup-clear
    swtpm=${daemons##* }
    until_ready sh -c 'ss -ltn | grep -q 127.0.0.1:2321'
}
tpm
# An HSM.
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$work/softhsm2.conf"
export SOFTHSM2_CONF="$work/softhsm2.conf"
softhsm2-util --init-token --free --label gose --pin 1234 --so-pin 5678 >/dev/null

# A remote grid, which knows this node by its certificate.
mkdir "$work/far" "$work/node"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=test root" \
    -keyout "$work/root.key" -out "$work/root.pem" 2>/dev/null
for name in far node; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "$work/$name/node.key" -out "$work/$name.csr" 2>/dev/null
    printf 'subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth, clientAuth\n' >"$work/extensions"
    openssl x509 -req -in "$work/$name.csr" -CA "$work/root.pem" -CAkey "$work/root.key" -days 30 \
        -extfile "$work/extensions" -out "$work/$name/node.pem" 2>/dev/null
    chmod 600 "$work/$name/node.key"
    cp "$work/root.pem" "$work/$name/"
done
tls='[tls]
certificate-file = "node.pem"
key = { file = "node.key" }
client-anchor-files = ["root.pem"]
user-anchor-files = ["root.pem"]
node-anchor-files = ["root.pem"]'
cat >"$work/far.toml" <<EOF
[listen]
address = "127.0.0.1:7777"
$tls
[[slot]]
seid = "card"
kind = "software"
[[slot]]
seid = "there"
kind = "software"
[[user]]
cn = "node"
seid = ["there"]
role = "admin"
EOF
node far "$work/far.toml"

# A card in a reader: another element of the far node plays it.
readers
pcscd=${daemons##* }
daemon gose reader card --socket "$work/far/admin.sock"
until_ready sh -c 'opensc-tool --list-readers | grep -q Yes'

printf 1234 >"$work/node/hsm.pin"
printf 'known to this node alone' >"$work/node/tpm.auth"
chmod 600 "$work/node/hsm.pin" "$work/node/tpm.auth"
cat >"$work/node.toml" <<EOF
$tls
[[key-store]]
name = "chip"
kind = "tpm"
swtpm = "127.0.0.1:2321"
auth-file = "tpm.auth"
[[key-store]]
name = "hsm"
kind = "pkcs11"
uri = "pkcs11:token=gose?module-path=/usr/lib/softhsm/libsofthsm2.so"
pin-file = "hsm.pin"
[[slot]]
seid = "software"
kind = "software"
[[slot]]
seid = "tpm"
kind = "software"
keys = "chip"
[[slot]]
seid = "hsm"
kind = "software"
keys = "hsm"
[[slot]]
seid = "reader"
kind = "pcsc"
reader = "^Virtual PCD 00 00"
[[slot]]
seid = "remote"
kind = "remote"
node = "localhost:7777"
remote-seid = "there"
EOF
node node "$work/node.toml" chip
running=${daemons##* }
check "gosed check" gosed check --config "$work/node/gosed.toml"
check "the master key is sealed by the TPM" sh -c "head -c 8 $work/node/master.key | grep -q GoSE-TPM"

check "gose element list: five kinds" sh -c "gose element list --socket $socket | tee /dev/stderr | tr '\n' ' ' |
    grep -q 'software tpm hsm reader remote'"

# signs SEID ALGORITHM SLOT: a key made there signs a certificate request.
signs() {
    gose key generate "$1" "$3" --alg "$2" --out "$work/key.pem" --socket "$socket" --secrets "$work/$1.secrets" &&
        gose key csr "$1" "$3" --name "$1" --out "$work/key.csr" --socket "$socket" --secrets "$work/$1.secrets" &&
        openssl req -in "$work/key.csr" -verify -noout
}
# attests SEID: a key made there is vouched for by the attestation key, which is made there too.
attests() {
    gose key generate "$1" 82 --socket "$socket" --secrets "$work/$1.secrets" --out "$work/key.pem" &&
        gose key generate "$1" F9 --socket "$socket" --secrets "$work/$1.secrets" --out "$work/f9.pem" &&
        gose key attest "$1" 82 --socket "$socket" >"$work/chain" &&
        sed '1,/END CERTIFICATE/d' "$work/chain" >"$work/attestation-ca.pem" &&
        openssl x509 -in "$work/attestation-ca.pem" -noout -pubkey | cmp - "$work/f9.pem" &&
        openssl verify -x509_strict -CAfile "$work/attestation-ca.pem" "$work/chain" &&
        openssl x509 -in "$work/chain" -noout -pubkey | cmp - "$work/key.pem"
}
# secrets SEID: what a secret key encrypted comes back, and nothing that was changed; openssl knows the MAC of a key
# that both have.
secrets() {
    set -- "$1" --socket "$socket" --secrets "$work/$1.secrets"
    seid=$1; shift
    printf 'a message' >"$work/plain"
    printf '%s' 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f >"$work/mac.key" && chmod 600 "$work/mac.key"
    gose key generate "$seid" 01 --alg aes256 "$@" &&
        gose key encrypt "$seid" 01 --associated header --in "$work/plain" --out "$work/sealed" "$@" &&
        gose key decrypt "$seid" 01 --associated header --in "$work/sealed" "$@" | cmp - "$work/plain" &&
        ! gose key decrypt "$seid" 01 --associated other --in "$work/sealed" "$@" &&
        gose key import "$seid" 02 --alg hmac-sha256 --key-source "file:$work/mac.key" "$@" &&
        gose key mac "$seid" 02 --in "$work/plain" "$@" | tr A-F a-f >"$work/ours" &&
        openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(cat "$work/mac.key")" -r "$work/plain" | cut -d' ' -f1 |
        cmp - "$work/ours" &&
        gose data put "$seid" 01 --in "$work/plain" "$@" && gose data get "$seid" 01 "$@" | cmp - "$work/plain"
}
for seid in software tpm hsm reader remote; do
    check "$seid: has all three applications" \
        sh -c "test \$(gose element info $seid --socket $socket | grep -c ' yes ') = 3"
    check "$seid: is initialised" \
        gose element init "$seid" --socket "$socket" --secrets-file "$work/$seid.secrets"
    for algorithm in p256 p384 rsa2048 rsa3072 rsa4096; do
        check "$seid: signs by $algorithm" signs "$seid" "$algorithm" 9A
    done
    check "$seid: attests its key" attests "$seid"
    check "$seid: encrypts and authenticates by secret keys" secrets "$seid"
    check "$seid: tells its ATR after a reset" gose element reset "$seid" --socket "$socket"
done
# Hardware goes away and comes back while the node runs: an error at once, nobody else is touched, then all is well.
refused() { ! gose element power "$1" --socket "$socket" && gose element power software --socket "$socket"; }
# A session that has just ended may still be powering its card down.
back() { until_ready signs "$1" p256 9A; }
kill "$pcscd" && wait "$pcscd" || :
check "reader: pcscd is killed" refused reader
rm -f /run/pcscd/pcscd.comm /run/pcscd/pcscd.pid
readers
check "reader: pcscd is back" back reader

check "the log tells of readers" sh -c \
    "grep -q 'card inserted' $work/daemons.log && grep -q 'pcscd is gone' $work/daemons.log"

broken() {
    ! gose key generate tpm 9A --alg p256 --socket "$socket" --secrets "$work/tpm.secrets" &&
        gose element power software --socket "$socket"
}
kill "$swtpm" && wait "$swtpm" || :
check "tpm: the TPM is gone" broken
tpm
check "tpm: the TPM is back" signs tpm p256 9A

restart() {
    for seid in software tpm hsm; do
        gose key show "$seid" 9A --socket "$socket" >"$work/$seid.before" || return 1
    done
    kill "$running" && wait "$running" || :
    rm -f "$socket"
    start node
    for seid in software tpm hsm; do
        gose key show "$seid" 9A --socket "$socket" | cmp - "$work/$seid.before" || return 1
    done
}
check "after a restart the TPM opens the images, and the keys are there" restart
# 9A, which was made anew for each algorithm, 82 and F9: what was replaced is gone.
check "the keys of the HSM are in the token, and no others" sh -c \
    "test \$(pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --login --pin 1234 -O --type privkey | grep -c GoSE) = 3"
finish
