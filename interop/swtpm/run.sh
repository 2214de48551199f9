#!/bin/sh
# swtpm: keys in a TPM 2.0, the element contract on them, and tpm2-tools as the judge.
. "$(dirname "$0")/../begin.sh"

mkdir "$work/tpm"
swtpm_setup --tpm2 --tpmstate "$work/tpm" --createek --overwrite >"$work/daemons.log" 2>&1
daemon swtpm socket --tpm2 --tpmstate "dir=$work/tpm" \
    --ctrl type=tcp,port=2322,bindaddr=127.0.0.1 --server type=tcp,port=2321,bindaddr=127.0.0.1 \
    --flags not-need-init,startup-clear
until_ready sh -c 'ss -ltn | grep -q 127.0.0.1:2321'
export GOSE_TEST_SWTPM=127.0.0.1:2321 GOSE_TEST_OUTPUT="$work"

# tpm TEST: one of gose-backend's tests.
tpm() {
    cargo test --offline --quiet --package gose-backend --features tpm,__judges --test tpm -- --exact --nocapture "$1"
}
check "keys, import, contract, sealing, attestation, silence on the bus, lockout" tpm a_tpm_holds_keys

# What the TPM signed and certified, judged by others than AWS-LC.
export TPM2TOOLS_TCTI=swtpm:host=127.0.0.1,port=2321
hexadecimal() { printf '%s' "$1" | od -An -tx1 | tr -d ' \n'; }
cd "$work"
check "openssl verifies a signature" openssl dgst -sha256 -verify key.pem -signature signature message
check "openssl verifies the TPM's certification" \
    openssl dgst -sha256 -verify attestation.pem -signature certified.signature certified
verifies() {
    tpm2_loadexternal -C n -G ecc -u "$1" -c judge.ctx &&
        tpm2_verifysignature -c judge.ctx -g sha256 -f ecdsa -m "$2" -s "$3"
    result=$?
    tpm2_flushcontext --transient-object
    return $result
}
refused() { ! "$@"; }
check "tpm2_verifysignature: a signature of the card's key" verifies key.pem message signature
check "tpm2_verifysignature: the certification" verifies attestation.pem certified certified.signature
check "tpm2_verifysignature refuses another statement" refused verifies attestation.pem quoted certified.signature
# tpm2_print names the fields that all statements have, then gives up at those of a certification.
check "tpm2-tools find the nonce in the certification" \
    sh -c "tpm2_print -t TPMS_ATTEST certified 2>&1 | grep -q 'extraData: $(hexadecimal 'a nonce')'"
check "tpm2_checkquote: the quote and its nonce" \
    tpm2_checkquote -u attestation.pem -m quoted -s quoted.signature -q "$(hexadecimal 'another nonce')"
check "tpm2_checkquote refuses another nonce" \
    refused tpm2_checkquote -u attestation.pem -m quoted -s quoted.signature -q "$(hexadecimal 'a nonce')"
cd - >/dev/null
check "the TPM is locked" sh -c "tpm2_getcap properties-variable | grep -q 'inLockout: *1'"
check "tpm2-tools lift the lockout" tpm2_dictionarylockout --clear-lockout
check "what was locked works again" tpm what_was_locked_works_again
check "three free places for keys, no session left" \
    sh -c 'test -z "$(tpm2_getcap handles-transient; tpm2_getcap handles-loaded-session)"'
finish
