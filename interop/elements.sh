# Sourced after begin.sh: a certification authority of OpenSSL's, a node with software elements, identities on keys
# that the elements make.
bin=${GOSE_BIN:-target/debug}
pki=$work/pki
mkdir -p "$pki" "$work/store" /run/gose
umask 077

# authority NAME: a root that can revoke.
authority() {
    mkdir "$pki/$1"
    openssl ecparam -genkey -name prime256v1 -out "$pki/$1/ca.key" 2>/dev/null
    openssl req -x509 -new -key "$pki/$1/ca.key" -subj "/CN=$1 root" -days 30 -out "$pki/$1/ca.pem"
    : >"$pki/$1/index"
    echo 1000 >"$pki/$1/serial"
    echo 01 >"$pki/$1/crlnumber"
    cat >"$pki/$1/ca.cnf" <<EOF
[ca]
default_ca = ca
[ca]
database = $pki/$1/index
new_certs_dir = $pki/$1
serial = $pki/$1/serial
crlnumber = $pki/$1/crlnumber
crl_extensions = crl
certificate = $pki/$1/ca.pem
private_key = $pki/$1/ca.key
default_md = sha256
default_days = 7
default_crl_days = 7
policy = any
unique_subject = no
[any]
commonName = supplied
[crl]
authorityKeyIdentifier = keyid
[server]
extendedKeyUsage = serverAuth
subjectAltName = DNS:radius.gose.test
keyUsage = digitalSignature
[client]
extendedKeyUsage = clientAuth
keyUsage = digitalSignature
EOF
}

# sign AUTHORITY server|client REQUEST CERTIFICATE [DATES …]
sign() {
    authority=$1 kind=$2 request=$3 certificate=$4
    shift 4
    openssl ca -batch -notext -config "$pki/$authority/ca.cnf" -extensions "$kind" \
        -in "$request" -out "$certificate" "$@" >>"$work/openssl.log" 2>&1
}

# file_key NAME ALGORITHM: a key and a request in files, for foreign programs.
file_key() {
    case $2 in
    rsa*) openssl genrsa -out "$pki/$1.key" "${2#rsa}" 2>/dev/null ;;
    p256) openssl ecparam -genkey -name prime256v1 -out "$pki/$1.key" 2>/dev/null ;;
    p384) openssl ecparam -genkey -name secp384r1 -out "$pki/$1.key" 2>/dev/null ;;
    esac
    openssl req -new -key "$pki/$1.key" -subj "/CN=$1" -out "$pki/$1.csr"
}

# slots NAME …: the node's configuration up to its slots; `cat >>` adds the rest.
slots() {
    head -c 32 /dev/urandom >"$work/master"
    cat <<EOF
version = 1
[admin]
[store]
directory = "$work/store"
master-key-file = "$work/master"
EOF
    for slot; do printf '[[slot]]\nseid = "%s"\nkind = "software"\n' "$slot"; done
}

# node: runs gosed with $work/gosed.toml; `renode` runs it anew.
node() {
    daemon "$bin/gosed" run --config "$work/gosed.toml"
    gosed=$!
    until_ready "$bin/gose" element list
}
renode() {
    kill "$gosed"
    wait "$gosed" || :
    node
}

# element SEID ALGORITHM AUTHORITY server|client [OPTIONS of identity add …]: initialised, with a key, a certificate
# and an identity called server or client.
element() {
    seid=$1 algorithm=$2 authority=$3 kind=$4
    shift 4
    "$bin/gose" element init "$seid" --secrets-file "$work/$seid.secrets" >/dev/null
    export GOSE_SECRETS="$work/$seid.secrets"
    sed -n 's/^bearer-pin = "\(.*\)"/\1/p' "$GOSE_SECRETS" >"$work/$seid.pin"
    "$bin/gose" key generate "$seid" 9A --alg "$algorithm" >/dev/null
    "$bin/gose" key csr "$seid" 9A --name "$seid" --out "$pki/$seid.csr" >/dev/null
    sign "$authority" "$kind" "$pki/$seid.csr" "$pki/$seid.pem"
    identity "$seid" "$kind" "$authority" "$@"
}

# identity SEID LABEL AUTHORITY [OPTIONS of identity add …]: another identity on the element's key.
identity() {
    seid=$1 label=$2 authority=$3
    shift 3
    role=peer
    [ "$label" != server ] || role=authenticator
    GOSE_SECRETS="$work/$seid.secrets" "$bin/gose" identity add "$seid" "$label" --role "$role" \
        --eap-id "@gose.test" --chain "$pki/$seid.pem" --anchors "$pki/$authority/ca.pem" "$@" >/dev/null
}

# log_has PATTERN: the node's log, without colours.
log_has() {
    sed 's/\x1b\[[0-9;]*m//g' "$work/daemons.log" | grep -q "$1"
}
