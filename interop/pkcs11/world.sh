# Sourced after begin.sh: a grid node over mutual TLS with software elements, a client with its certificate, and the
# module's configuration.
root=$(cd "$folder/../.." && pwd)
PATH="$root/target/debug:$PATH"
module=${GOSE_PKCS11_MODULE:-$root/target/debug/libgose_pkcs11.so}
grid=$work/grid
mkdir -p "$grid/store" "$work/client"
umask 077
export GOSE_PKCS11_CONF=$work/client/pkcs11.toml

# certificates: an authority, the node's and the client's.
certificates() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=test root" \
        -keyout "$work/root.key" -out "$work/root.pem" 2>/dev/null
    for name in node guest admin plain stranger; do
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
            -keyout "$work/$name.key" -out "$work/$name.csr" 2>/dev/null
        printf 'subjectAltName = DNS:localhost\nextendedKeyUsage = serverAuth, clientAuth\n' >"$work/extensions"
        openssl x509 -req -in "$work/$name.csr" -CA "$work/root.pem" -CAkey "$work/root.key" -days 30 \
            -extfile "$work/extensions" -out "$work/$name.pem" 2>/dev/null
    done
}

# grid SEID …: a node with these elements, all of them the guest's.
grid() {
    certificates
    head -c 32 /dev/urandom >"$grid/master.key"
    {
        cat <<TOML
version = 1
[listen]
address = "127.0.0.1:7777"
[admin]
socket = "$grid/admin.sock"
[tls]
certificate-file = "$work/node.pem"
key = { file = "$work/node.key" }
user-anchor-files = ["$work/root.pem"]
[store]
directory = "$grid/store"
master-key-file = "$grid/master.key"
[[user]]
cn = "guest"
seid = ["*"]
[[user]]
cn = "admin"
seid = ["*"]
role = "admin"
[[user]]
cn = "plain"
seid = ["*"]
[[aid]]
aid = "A000000308000010000100"
allow = ["*"]
[[aid]]
aid = "F0474F534553544F01"
allow = ["guest", "admin"]
[[aid]]
aid = "F0474F534545415001"
allow = ["*"]
TOML
        for seid; do printf '[[slot]]\nseid = "%s"\nkind = "software"\n' "$seid"; done
    } >"$grid/gosed.toml"
    start_grid
}
start_grid() {
    daemon gosed run --config "$grid/gosed.toml"
    gosed=$!
    until_ready gose element list --socket "$grid/admin.sock"
}
stop_grid() {
    kill "$gosed" && wait "$gosed" || :
}

# equip SEID ALGORITHM SLOT …: an initialised element with keys and certificates.
equip() {
    seid=$1 algorithm=$2
    shift 2
    [ -f "$work/$seid.secrets" ] ||
        gose element init "$seid" --socket "$grid/admin.sock" --secrets-file "$work/$seid.secrets" >/dev/null
    for slot; do
        public="$work/$seid.$slot.pub" certificate="$work/$seid.$slot.pem"
        gose key generate "$seid" "$slot" --alg "$algorithm" --out "$public" \
            --socket "$grid/admin.sock" --secrets "$work/$seid.secrets" >/dev/null
        openssl x509 -new -force_pubkey "$public" -subj "/CN=$seid" -days 30 \
            -CA "$work/root.pem" -CAkey "$work/root.key" -extfile "$work/extensions" -out "$certificate" 2>/dev/null
        gose cert import "$seid" "$slot" "$certificate" --socket "$grid/admin.sock" \
            --secrets "$work/$seid.secrets" >/dev/null
    done
}
pin() { sed -n 's/^piv-pin = "\(.*\)"$/\1/p' "$work/$1.secrets"; }
puk() { sed -n 's/^piv-puk = "\(.*\)"$/\1/p' "$work/$1.secrets"; }

# client [LINES]: the module's configuration, with more lines at its end.
client() {
    cat >"$GOSE_PKCS11_CONF" <<TOML
version = 1
${top:-}
[grid]
address = "${address:-localhost:7777}"
certificate-file = "${client_certificate:-$work/guest.pem}"
key = { file = "${client_key:-$work/guest.key}" }
anchor-files = ["$work/root.pem"]
${1:-}
TOML
}

# service [LINES]: the guest service in front of the grid, and the module's configuration for it.
service() {
    mkdir -p /run/gose
    chmod 755 /run/gose
    cat >"$work/client/guest.toml" <<TOML
version = 1
${1:-}
[grid]
address = "localhost:7777"
certificate-file = "$work/guest.pem"
key = { file = "$work/guest.key" }
anchor-files = ["$work/root.pem"]
TOML
    start_service
}
start_service() {
    daemon gose guest serve --config "$work/client/guest.toml"
    guest=$!
    until_ready gose element list --socket /run/gose/guest.sock
}
stop_service() {
    kill "${1:--TERM}" "$guest" && wait "$guest" || :
}
