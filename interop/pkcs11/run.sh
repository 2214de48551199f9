#!/bin/sh
# libgose_pkcs11.so before a grid node over mutual TLS, in direct mode. Judges: OpenSC's pkcs11-tool, GnuTLS's p11tool,
# OpenSSL's engine, python-pkcs11, NSS, SunPKCS11, valgrind, and programs of C that do what applications do wrong.
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
