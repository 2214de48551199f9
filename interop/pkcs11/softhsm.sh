#!/bin/sh
# What pkcs11-tool passes on SoftHSM2 passes on the module, or stands in skips.toml with the reason. Each case is run on
# SoftHSM2 first: one that fails there judges nobody, and fails the run.
. "$(dirname "$0")/../begin.sh"
. "$folder/world.sh"
soft=/usr/lib/softhsm/libsofthsm2.so
export SOFTHSM2_CONF="$work/softhsm2.conf"
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$SOFTHSM2_CONF"
softhsm2-util --init-token --free --label soft --pin 123456 --so-pin 12345678 >/dev/null
grid el
gose element init el --socket "$grid/admin.sock" --secrets-file "$work/el.secrets" >/dev/null
client_certificate="$work/admin.pem" client_key="$work/admin.key" client "[[element]]
seid = \"el\"
management-key = \"file:$work/el.secrets\""
printf 'message\n' >"$work/message"
head -c 32 /dev/urandom >"$work/secret"
openssl genrsa -traditional -out "$work/rsa.pem" 2048 2>/dev/null
openssl rsa -in "$work/rsa.pem" -traditional -outform DER -out "$work/rsa.der" 2>/dev/null
openssl req -x509 -key "$work/rsa.pem" -subj /CN=some -days 30 -outform DER -out "$work/some.der"
on_soft() { pkcs11-tool --module "$soft" --token-label soft --login --pin 123456 "$@"; }
on_gose() { pkcs11-tool --module "$module" --token-label el --login --pin "$(pin el)" "$@"; }

# both NAME STEPS: the steps on SoftHSM2, then on the module. $p11 in them is pkcs11-tool with the token.
both() {
    name=$1
    p11=on_soft
    if ! eval "$2" >"$work/soft.log" 2>&1; then
        cat "$work/soft.log"
        echo "FAILED $name: does not pass on SoftHSM2 itself"; failed=$((failed + 1))
        return
    fi
    p11=on_gose
    check "$name" eval "$2"
}
signs() { $p11 --sign --id "$1" --mechanism "$2" --signature-format openssl -i "$work/message" -o "$work/signature"; }
verified() { $p11 --read-object --type pubkey --id "$1" -o "$work/public.der" && openssl dgst "$2" -verify "$work/public.der" -keyform DER -signature "$work/signature" "$work/message"; }

both "mechanisms" '$p11 -M'
both "key pair of P-256" '$p11 --keypairgen --key-type EC:prime256v1 --id 01 --label one'
both "key pair of P-384" '$p11 --keypairgen --key-type EC:secp384r1 --id 02 --label two'
both "key pair of RSA-2048" '$p11 --keypairgen --key-type rsa:2048 --id 03 --label three'
both "key pair of RSA-3072" '$p11 --keypairgen --key-type rsa:3072 --id 04 --label four'
openssl dgst -sha256 -binary -out "$work/digest256" "$work/message"
both "ECDSA, P-256" '$p11 --sign --id 01 --mechanism ECDSA --signature-format openssl -i "$work/digest256" -o "$work/signature" && verified 01 -sha256'
for hash in 1 256 384 512; do
    both "SHA$hash-RSA-PKCS" "signs 03 SHA$hash-RSA-PKCS && verified 03 -sha$hash"
done
both "SHA256-RSA-PKCS-PSS" 'signs 03 SHA256-RSA-PKCS-PSS'
both "objects" '$p11 -O'
certified() { $p11 --read-object --type pubkey --id 03 -o "$work/public.der" && openssl x509 -new -force_pubkey "$work/public.der" -subj /CN=three -days 30 -CA "$work/root.pem" -CAkey "$work/root.key" -outform DER -out "$work/three.der"; }
both "a certificate is written, read and deleted" \
    'certified && $p11 --write-object "$work/three.der" --type cert --id 03 --label three && $p11 --read-object --type cert --id 03 -o "$work/back" && cmp "$work/back" "$work/three.der" && $p11 --delete-object --type cert --id 03'
both "a certificate without a key" '$p11 --write-object "$work/some.der" --type cert --id 19'
for hash in SHA-1 SHA256 SHA384 SHA512; do
    both "digest by $hash" "\$p11 --hash --mechanism $hash -i '$work/message' -o '$work/digest'"
done
both "random numbers" '$p11 --generate-random 32 -o "$work/random"'
both "the PIN changes and changes back" 'case $p11 in on_soft) old=123456 ;; *) old=$(pin el) ;; esac
    $p11 --change-pin --new-pin 24682468 && pkcs11-tool --module "$(case $p11 in on_soft) echo $soft ;; *) echo $module ;; esac)" --token-label "$(case $p11 in on_soft) echo soft ;; *) echo el ;; esac)" --login --pin 24682468 --change-pin --new-pin "$old"'
both "MD5" '$p11 --hash --mechanism MD5 -i "$work/message" -o "$work/digest"'
both "key pair of RSA-1024" '$p11 --keypairgen --key-type rsa:1024 --id 11'
both "key pair of P-521" '$p11 --keypairgen --key-type EC:secp521r1 --id 12'
both "key pair of Ed25519" '$p11 --keypairgen --key-type EC:edwards25519 --id 13'
both "a private key from outside" '$p11 --write-object "$work/rsa.der" --type privkey --id 14'
both "a public key without its private one" 'openssl rsa -in "$work/rsa.pem" -pubout -outform DER -out "$work/pub.der" && $p11 --write-object "$work/pub.der" --type pubkey --id 15'
both "AES key" '$p11 --keygen --key-type AES:32 --id 16 --private --sensitive --usage-decrypt'
both "generic secret key" '$p11 --keygen --key-type GENERIC:32 --id 17 --private --sensitive --usage-sign'
both "a secret key from outside" '$p11 --write-object "$work/secret" --type secrkey --key-type AES:32 --id 18 --private --sensitive'
both "data object" '$p11 --write-object "$work/message" --type data --label note && $p11 --read-object --type data --label note -o "$work/back" && cmp "$work/back" "$work/message"'
both "a key pair is deleted" '$p11 --delete-object --type privkey --id 04'
finish
