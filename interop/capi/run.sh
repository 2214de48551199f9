#!/bin/sh
# libgose.so: a program of C plays the paper's experiment with the ten functions, against elements of a grid over
# mutual TLS; again under valgrind.
. "$(dirname "$0")/../begin.sh"
. "$folder/../pkcs11/world.sh"

crate=$root/crates/gose-capi
mkdir "$work/pkgconfig"
sed "s#@PREFIX@#$work#" "$crate/gose.pc.in" >"$work/pkgconfig/gose.pc"
mkdir "$work/include" "$work/lib"
cp "$crate/include/gose.h" "$work/include/"
cp "${GOSE_LIBRARY:-$root/target/debug/libgose.so}" "$work/lib/"
builds() {
    # shellcheck disable=SC2046
    gcc -Wall -Wextra -Werror "$folder/experiment.c" -o "$work/experiment" \
        $(PKG_CONFIG_PATH="$work/pkgconfig" pkg-config --cflags --libs gose) -lpthread "-Wl,-rpath,$work/lib"
}
check "the program is built with pkg-config, gcc -Wall -Wextra -Werror" builds
check "the header serves C++" sh -c \
    "echo '#include <gose.h>' | gcc -x c++ -fsyntax-only -Wall -Wextra -Werror -I$work/include -"

grid peer server
# identity SEID LABEL ROLE: a key on the element, a certificate for it, an identity of EAP-TLS.
identity() {
    gose element init "$1" --socket "$grid/admin.sock" --secrets-file "$work/$1.secrets" >/dev/null
    export GOSE_SECRETS="$work/$1.secrets"
    gose key generate "$1" 9A --alg p256 --socket "$grid/admin.sock" --out "$work/$1.pub" >/dev/null
    openssl x509 -new -force_pubkey "$work/$1.pub" -subj "/CN=$1" -days 7 -CA "$work/root.pem" -CAkey "$work/root.key" \
        -extfile "$work/extensions" -out "$work/$1.pem" 2>/dev/null
    gose identity add "$1" "$2" --role "$3" --eap-id "$1@gose.test" --chain "$work/$1.pem" --anchors "$work/root.pem" \
        --socket "$grid/admin.sock" >/dev/null
}
bearer() { sed -n 's/^bearer-pin = "\(.*\)"$/\1/p' "$work/$1.secrets"; }
identity peer client peer
identity server server authenticator
client
sed '/^\[\[element/,$d' "$GOSE_PKCS11_CONF" >"$work/client/gose.toml"
experiment() { "$@" "$work/experiment" "$work/client/gose.toml" "$(bearer peer)" "$(bearer server)"; }
check "the paper's experiment" experiment env
grep 'key block of' "$work/case.log" || :
check "the paper's experiment again: the elements are free" experiment env
check "the same under valgrind: no error, no leak" experiment \
    valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite --show-leak-kinds=definite
service
cat >"$work/client/gose.toml" <<TOML
version = 1
[grid]
service = "/run/gose/guest.sock"
TOML
check "the paper's experiment through the guest service" experiment env
check "every function of the header is called" sh -c \
    "for f in \$(grep -o '\\(SCard_[a-z_]*\\|gose_[a-z_]*\\)(' $crate/include/gose.h | tr -d '('); do grep -q \"\$f(\" $folder/experiment.c || { echo \$f; exit 1; }; done"
finish
