#!/bin/sh
# One node with elements of every kind, all behind the same door: in software, with keys in a TPM, with keys in
# an HSM, a card in a reader, an element of a remote grid. Judge: openssl verifies what each one signs.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"

. "$folder/../kinds.sh"
check "gosed check" gosed check --config "$work/node/gosed.toml"
check "the master key is sealed by the TPM" sh -c "head -c 8 $work/node/master.key | grep -q GoSE-TPM"

check "gose element list: five kinds" sh -c "gose element list --socket $socket | tee /dev/stderr | tr '\n' ' ' |
    grep -q 'software tpm hsm reader remote opensc'"

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

# attested FILE OPTIONS …: the TPM says it, openssl and tpm2_checkquote believe it. swtpm serves one caller: the node ends.
attested() {
    gosed attest --config "$work/node/gosed.toml" --nonce 0123456789abcdef --out "$work/said" "$@" &&
        openssl dgst -sha256 -verify "$work/said/attestation-key.pem" -signature "$work/said/signature" "$work/said/statement" &&
        od -An -tx1 -v "$work/said/statement" | tr -d ' \n' | grep -q 0123456789abcdef
}
quoted() {
    attested "$@" && tpm2_checkquote -u "$work/said/attestation-key.pem" -m "$work/said/statement" \
        -s "$work/said/signature" -q 0123456789abcdef
}
restart() {
    for seid in software tpm hsm; do
        gose key show "$seid" 9A --socket "$socket" >"$work/$seid.before" || return 1
    done
    kill "$running" && wait "$running" || :
    rm -f "$socket"
    quoted --key-store chip --pcr 0,7 && attested --element tpm --slot 9A || return 1
    ! attested --element hsm --slot 9A && ! attested --element tpm --slot 95 || return 1
    start node
    for seid in software tpm hsm; do
        gose key show "$seid" 9A --socket "$socket" | cmp - "$work/$seid.before" || return 1
    done
}
check "between two runs the TPM quotes and certifies; after a restart it opens the images, and the keys are there" restart
# 9A, which was made anew for each algorithm, 82 and F9: what was replaced is gone.
check "the keys of the HSM are in the token, and no others" sh -c \
    "test \$(pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --login --pin 1234 -O --type privkey | grep -c GoSE) = 3"
finish
