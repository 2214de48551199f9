#!/bin/sh
# Stock OpenSC, without patch or configuration, on elements of a node: gosed, gose reader, vpcd, pcscd. openssl
# verifies every signature and every attestation.
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"

cat >"$work/slots.toml" <<EOF
[[slot]]
seid = "EC"
kind = "software"
[[slot]]
seid = "RSA"
kind = "software"
[[slot]]
seid = "LONG"
kind = "software"
EOF
node node "$work/slots.toml"
equip EC p256 9A 9C=p384 9D 9E=p384 82=p384 83
equip RSA rsa2048 9A 9C=rsa3072 9D 9E=rsa3072 82=rsa3072 83
equip LONG rsa4096 9A 9D
cat "$work/LONG.9A.pem" "$work/LONG.9D.pem" >"$work/LONG.both"

# Attestation: the element vouches for each key that it made; openssl verifies.
attests() {
    gose key attest "$1" "$2" --socket "$socket" >"$work/chain" &&
        openssl x509 -in "$work/chain" -out "$work/attestation.pem" &&
        sed '1,/END CERTIFICATE/d' "$work/chain" >"$work/attestation-ca.pem" &&
        openssl verify -x509_strict -CAfile "$work/attestation-ca.pem" "$work/attestation.pem" &&
        openssl x509 -in "$work/attestation.pem" -noout -pubkey | cmp - "$work/$1.$2.pem"
}
check "no attestation without an attestation key" \
    sh -c "! gose key attest EC 9A --socket $socket 2>$work/refusal && grep -q 'has no attestation key' $work/refusal"
for seid in EC RSA; do
    gose key generate $seid F9 --socket "$socket" --secrets "$work/$seid.secrets" >/dev/null
    for slot in 9A 9C 9D 9E 82 83; do
        check "$seid: key $slot is attested" attests $seid $slot
    done
done
by_authority() {
    openssl x509 -in "$work/attestation-ca.pem" -CA "$work/authority.pem" -CAkey "$work/ca.key" -days 30 \
        -clrext -extfile "$work/ca-extensions" -out "$work/certified.pem" &&
        openssl verify -CAfile "$work/authority.pem" -untrusted "$work/certified.pem" "$work/attestation.pem"
}
printf 'basicConstraints = critical, CA:TRUE, pathlen:0\nkeyUsage = critical, keyCertSign\n' >"$work/ca-extensions"
openssl req -x509 -new -key "$work/ca.key" -subj "/CN=an authority" -days 30 -out "$work/authority.pem"
check "an authority vouches for the attestation key" by_authority

# Keys by the numbers that OpenSC gives them.
number() {
    case $1 in 9A) echo 01 ;; 9C) echo 02 ;; 9D) echo 03 ;; 9E) echo 04 ;; 82) echo 05 ;; 83) echo 06 ;; esac
}

# signs SEID SLOT READER HASH MECHANISM …: pkcs11-tool signs, openssl verifies.
signs() {
    seid=$1 slot=$2 reader=$3 hash=$4 mechanism=$5; shift 5
    pkcs11-tool --slot-index "$reader" --login --pin "$(pin "$seid")" --sign --id "$(number "$slot")" \
        --mechanism "$mechanism" "$@" --input-file "$work/message" --output-file "$work/signature" || return 1
    set --
    case $mechanism in *PSS*) set -- -sigopt rsa_padding_mode:pss ;; esac
    openssl dgst "-$hash" "$@" -verify "$work/$seid.$slot.pem" -signature "$work/signature" "$work/message"
}
readers
printf 'a message' >"$work/message"

# RSA-4096, which PIV has not: an element that leaves the first reader again.
daemon gose reader LONG --socket "$socket" --vpcd 127.0.0.1:35963
long_reader=${daemons##* }
until_ready sh -c 'opensc-tool --list-readers | grep -q Yes'
check "RSA-4096: pkcs15-tool reads the certificates" sh -c "
    for id in 01 03; do pkcs15-tool --reader 0 --read-certificate \$id | openssl x509 -noout -pubkey; done |
        cmp - $work/LONG.both"
check "RSA-4096: PKCS #1 by 9A" signs LONG 9A 0 sha256 SHA256-RSA-PKCS
kill "$long_reader" && wait "$long_reader" || :
until_ready sh -c '! opensc-tool --list-readers | grep -q Yes'

daemon gose reader EC --socket "$socket" --vpcd 127.0.0.1:35963
daemon gose reader RSA --socket "$socket" --vpcd 127.0.0.1:35964
until_ready sh -c 'opensc-tool --list-readers | grep -c Yes | grep -q 2'

for seid in EC RSA; do
    case $seid in EC) reader=0 ;; RSA) reader=1 ;; esac
    check "$seid: opensc-tool recognises a PIV card" \
        sh -c "opensc-tool --reader $reader --name | grep -Eq 'PIV-II|Personal Identity Verification'"
    check "$seid: opensc-tool shows the ATR" \
        sh -c "opensc-tool --reader $reader --atr | grep -qi '3b:8b:01:80:f9'"
    check "$seid: piv-tool recognises it" sh -c "piv-tool --reader $reader --name | grep -Eq 'PIV-II|Personal Identity Verification'"
    check "$seid: pkcs15-tool lists six keys and six certificates, two of them retired" \
        sh -c "pkcs15-tool --reader $reader --dump | tee $work/dump &&
               test \$(grep -c '^Private' $work/dump) = 6 && test \$(grep -c '^X.509' $work/dump) = 6"
    check "$seid: pkcs15-tool reads the certificate" \
        sh -c "pkcs15-tool --reader $reader --read-certificate 01 | openssl x509 -noout -pubkey | cmp - $work/$seid.9A.pem"
    pkcs11-tool --slot-index $reader --login --pin "$(pin $seid)" --test >"$work/test" 2>&1 || :
    check "$seid: pkcs11-tool's test finds no fault" \
        sh -c "cat $work/test; ! grep -E 'ERR|not supported' $work/test | grep -v C_SeedRandom && grep -q 'No errors' $work/test"
    check "$seid: random numbers come from the card" sh -c "
        for n in 1 2; do
            pkcs11-tool --slot-index $reader --generate-random 64 --output-file $work/random.\$n
        done
        test \$(wc -c <$work/random.1) = 64 && ! cmp -s $work/random.1 $work/random.2"
    check "$seid: a wrong PIN is refused" \
        sh -c "! pkcs11-tool --slot-index $reader --login --pin 00000000 --list-objects"
done

check "P-256: ECDSA by 9A" signs EC 9A 0 sha256 ECDSA-SHA256 --signature-format openssl
check "P-384: ECDSA by 9C" signs EC 9C 0 sha384 ECDSA-SHA384 --signature-format openssl
check "P-384: ECDSA by 9E" signs EC 9E 0 sha384 ECDSA-SHA384 --signature-format openssl
check "P-384: ECDSA by 9C over SHA-256" signs EC 9C 0 sha256 ECDSA-SHA256 --signature-format openssl
for pair in 2048:9A 3072:9C 3072:9E; do
    slot=${pair#*:}
    check "RSA-${pair%:*}: PKCS #1 by $slot" signs RSA "$slot" 1 sha256 SHA256-RSA-PKCS
    check "RSA-${pair%:*}: PKCS #1 with SHA-512 by $slot" signs RSA "$slot" 1 sha512 SHA512-RSA-PKCS
    check "RSA-${pair%:*}: PSS by $slot" signs RSA "$slot" 1 sha256 SHA256-RSA-PKCS-PSS
done

# decrypts SLOT MECHANISM PADDING …
decrypts() {
    slot=$1 mechanism=$2 padding=$3; shift 3
    openssl pkeyutl -encrypt -pubin -inkey "$work/RSA.$slot.pem" -pkeyopt "rsa_padding_mode:$padding" \
        -in "$work/message" -out "$work/secret" &&
        pkcs11-tool --slot-index 1 --login --pin "$(pin RSA)" --decrypt --id "$(number "$slot")" \
            --mechanism "$mechanism" "$@" --input-file "$work/secret" --output-file "$work/plain" &&
        cmp "$work/message" "$work/plain"
}
check "RSA-2048: decryption by 9D" decrypts 9D RSA-PKCS pkcs1
check "RSA-2048: decryption with OAEP by 9D" decrypts 9D RSA-PKCS-OAEP oaep --hash-algorithm SHA-1 --mgf MGF1-SHA1
check "RSA-3072: decryption by the retired key 82" decrypts 82 RSA-PKCS pkcs1
check "RSA-2048: decryption by the retired key 83" decrypts 83 RSA-PKCS pkcs1

# derives SLOT CURVE
derives() {
    openssl ecparam -genkey -name "$2" -noout -out "$work/other.key" &&
        openssl ec -in "$work/other.key" -pubout -outform DER -out "$work/other.der" &&
        pkcs11-tool --slot-index 0 --login --pin "$(pin EC)" --derive --id "$(number "$1")" --mechanism ECDH1-DERIVE \
            --input-file "$work/other.der" --output-file "$work/theirs" &&
        openssl pkeyutl -derive -inkey "$work/other.key" -peerkey "$work/EC.$1.pem" -out "$work/ours" &&
        cmp "$work/ours" "$work/theirs"
}
check "P-256: key agreement by 9D" derives 9D prime256v1
check "P-384: key agreement by the retired key 82" derives 82 secp384r1
check "P-256: key agreement by the retired key 83" derives 83 prime256v1

# yubico-piv-tool, which the elements are no YubiKeys for.
yubico() { reader=$1; shift; yubico-piv-tool --reader "Virtual PCD 00 0$reader" "$@"; }
check "yubico-piv-tool reads the status" sh -c \
    "yubico-piv-tool --reader 'Virtual PCD 00 00' --action status | tee /dev/stderr | grep -q 'Subject DN:.*EC 9C'"
check "yubico-piv-tool verifies the PIN" yubico 0 --action verify-pin --pin "$(pin EC)"
changes_pin() {
    yubico 0 --action change-pin --pin "$(pin EC)" --new-pin 87654321 &&
        yubico 0 --action verify-pin --pin 87654321 &&
        yubico 0 --action change-pin --pin 87654321 --new-pin "$(pin EC)"
}
check "yubico-piv-tool changes the PIN" changes_pin
reads() { yubico 1 --action read-certificate --slot 9d | openssl x509 -noout -pubkey | cmp - "$work/RSA.9D.pem"; }
check "yubico-piv-tool reads a certificate" reads
# requests READER SEID SLOT ALGORITHM HASH
requests() {
    yubico "$1" --action verify-pin --action request-certificate --pin "$(pin "$2")" --slot "$3" --algorithm "$4" \
        --hash "$5" --subject "/CN=$2/" --input "$work/$2.$(echo "$3" | tr a-z A-Z).pem" --output "$work/request" &&
        openssl req -in "$work/request" -verify -noout
}
check "yubico-piv-tool has P-256 sign a request" requests 0 EC 9a ECCP256 SHA256
check "yubico-piv-tool has P-384 sign a request" requests 0 EC 9c ECCP384 SHA384
check "yubico-piv-tool has RSA-2048 sign a request" requests 1 RSA 9a RSA2048 SHA256
self_signs() {
    yubico 1 --action verify-pin --action selfsign-certificate --pin "$(pin RSA)" --slot 9a --subject /CN=RSA/ \
        --input "$work/RSA.9A.pem" --output "$work/self" && openssl verify -CAfile "$work/self" "$work/self"
}
check "yubico-piv-tool has a key sign its own certificate" self_signs
tests_signature() {
    yubico "$1" --action verify-pin --action test-signature --pin "$(pin "$2")" --slot "$3" --input "$work/$2.$4.crt"
}
check "yubico-piv-tool tests a signature of P-384" tests_signature 0 EC 9c 9C
check "yubico-piv-tool tests a signature of RSA-2048" tests_signature 1 RSA 9a 9A
tests_decipher() {
    yubico "$1" --action verify-pin --action test-decipher --pin "$(pin "$2")" --slot 9d --input "$work/$2.9D.crt"
}
check "yubico-piv-tool tests key agreement" tests_decipher 0 EC
check "yubico-piv-tool tests decryption" tests_decipher 1 RSA
attested_by_yubico() {
    yubico 0 --action attest --slot 9c --output "$work/yubico.pem" &&
        openssl x509 -in "$work/yubico.pem" -noout -pubkey | cmp - "$work/EC.9C.pem"
}
check "yubico-piv-tool gets an attestation" attested_by_yubico
management() { sed -n 's/^management-key = "\(.*\)"$/\1/p' "$work/EC.secrets"; }
check "yubico-piv-tool makes a key" yubico 0 --action generate --slot 95 --algorithm ECCP256 "--key=$(management)"

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
check "a key that came from outside is not attested" sh -c "
    ! gose key attest second 9A --socket $work/second/admin.sock 2>$work/refusal && grep -q 'not made in the element' $work/refusal"
finish
