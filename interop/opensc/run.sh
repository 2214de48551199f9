#!/bin/sh
# Stock OpenSC, without patch or configuration, on elements of a node: gosed, gose reader, vpcd, pcscd.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"

cat >"$work/slots.toml" <<EOF
[[slot]]
seid = "EC"
kind = "software"
[[slot]]
seid = "RSA"
kind = "software"
EOF
node node "$work/slots.toml"
equip EC p256 9A 9C 9D 9E
equip RSA rsa2048 9A 9C 9D 9E
readers
daemon gose reader EC --socket "$socket" --vpcd 127.0.0.1:35963
daemon gose reader RSA --socket "$socket" --vpcd 127.0.0.1:35964
until_ready sh -c 'opensc-tool --list-readers | grep -c Yes | grep -q 2'
printf 'a message' >"$work/message"

for seid in EC RSA; do
    case $seid in EC) reader=0 ;; RSA) reader=1 ;; esac
    check "$seid: opensc-tool recognises a PIV card" \
        sh -c "opensc-tool --reader $reader --name | grep -Eq 'PIV-II|Personal Identity Verification'"
    check "$seid: opensc-tool shows the ATR" \
        sh -c "opensc-tool --reader $reader --atr | grep -qi '3b:8b:01:80:f9'"
    check "$seid: piv-tool recognises it" sh -c "piv-tool --reader $reader --name | grep -Eq 'PIV-II|Personal Identity Verification'"
    check "$seid: pkcs15-tool lists four keys and four certificates" \
        sh -c "pkcs15-tool --reader $reader --dump >$work/dump &&
               test \$(grep -c '^Private' $work/dump) = 4 && test \$(grep -c '^X.509' $work/dump) = 4"
    check "$seid: pkcs15-tool reads the certificate" \
        sh -c "pkcs15-tool --reader $reader --read-certificate 01 | openssl x509 -noout -pubkey | cmp - $work/$seid.9A.pem"
    pkcs11-tool --slot-index $reader --login --pin "$(pin $seid)" --test >"$work/test" 2>&1 || :
    check "$seid: pkcs11-tool's test finds no fault but random numbers" \
        sh -c "cat $work/test; grep -q '^Decryption' $work/test && ! grep 'ERR' $work/test | grep -qv C_GenerateRandom"
    check "$seid: pkcs11-tool's test gets random numbers" sh -c "grep -q 'No errors' $work/test"
    check "$seid: a wrong PIN is refused" \
        sh -c "! pkcs11-tool --slot-index $reader --login --pin 00000000 --list-objects"
done

# sign SEID SLOT ID READER MECHANISM …: pkcs11-tool signs, openssl verifies.
sign() {
    seid=$1 slot=$2 id=$3 reader=$4 mechanism=$5; shift 5
    pkcs11-tool --slot-index "$reader" --login --pin "$(pin "$seid")" --sign --id "$id" \
        --mechanism "$mechanism" "$@" --input-file "$work/message" --output-file "$work/signature" &&
        openssl dgst -sha256 -verify "$work/$seid.$slot.pem" -signature "$work/signature" "$work/message"
}
for pair in 9A:01 9C:02 9E:04; do
    slot=${pair%:*} id=${pair#*:}
    check "EC: ECDSA by $slot" sign EC "$slot" "$id" 0 ECDSA-SHA256 --signature-format openssl
    check "RSA: PKCS #1 by $slot" sign RSA "$slot" "$id" 1 SHA256-RSA-PKCS
done

decrypt() {
    openssl pkeyutl -encrypt -pubin -inkey "$work/RSA.9D.pem" -in "$work/message" -out "$work/secret" &&
        pkcs11-tool --slot-index 1 --login --pin "$(pin RSA)" --decrypt --id 03 --mechanism RSA-PKCS \
            --input-file "$work/secret" --output-file "$work/plain" && cmp "$work/message" "$work/plain"
}
check "RSA: decryption by 9D" decrypt

derive() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$work/other.key" &&
        openssl ec -in "$work/other.key" -pubout -outform DER -out "$work/other.der" &&
        pkcs11-tool --slot-index 0 --login --pin "$(pin EC)" --derive --id 03 --mechanism ECDH1-DERIVE \
            --input-file "$work/other.der" --output-file "$work/theirs" &&
        openssl pkeyutl -derive -inkey "$work/other.key" -peerkey "$work/EC.9D.pem" -out "$work/ours" &&
        cmp "$work/ours" "$work/theirs"
}
check "EC: key agreement by 9D" derive

check "yubico-piv-tool reads the status" yubico-piv-tool --reader 'Virtual PCD 00 00' --action status
check "yubico-piv-tool verifies the PIN" \
    sh -c "pin=$(pin EC); yubico-piv-tool --reader 'Virtual PCD 00 00' --action verify-pin --pin \$pin"

# OpenSC's module is itself an HSM for a node: what it knows as a card holds keys of a software card.
pin EC >"$work/pin"
chmod 600 "$work/pin"
cat >"$work/second.toml" <<EOF
[[key-store]]
name = "card"
kind = "pkcs11"
uri = "pkcs11:slot-id=0?module-path=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so"
pin-file = "$work/pin"
sessions = 1
[[slot]]
seid = "second"
kind = "software"
keys = "card"
adopt = { 9A = "01", 9C = "02" }
EOF
node second "$work/second.toml"
second() {
    gose key csr second "$1" --name second --out "$work/second.csr" --socket "$work/second/admin.sock" \
        --secrets "$work/second.secrets" &&
        openssl req -in "$work/second.csr" -verify -noout &&
        openssl req -in "$work/second.csr" -pubkey -noout | cmp - "$work/EC.$1.pem"
}
check "a card that OpenSC knows is a key store" gose element init second --socket "$work/second/admin.sock" \
    --secrets-file "$work/second.secrets"
check "its key 9A signs for another element" second 9A
check "its key 9C, which asks for the PIN each time, signs too" second 9C
finish
