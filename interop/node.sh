# Sourced after begin.sh by judges of a whole node: gosed and gose, built by the stage.
PATH="$(cd "$folder/../.." && pwd)/target/debug:$PATH"
export GOSE_SECRETS=
socket="$work/node/admin.sock"
mkdir "$work/readers"

# node NAME FILE [TPM]: starts gosed in a folder of this name on a configuration; [admin] and [store] are added,
# with a master key in the clear, or sealed by the key store TPM.
node() {
    mkdir -p "$work/$1"
    {
        printf 'version = 1\n[admin]\nsocket = "admin.sock"\n'
        printf '[store]\ndirectory = "."\nmaster-key-file = "master.key"\n'
        [ -z "${3:-}" ] || printf 'sealed-by = "%s"\n' "$3"
        cat "$2"
    } >"$work/$1/gosed.toml"
    if [ -n "${3:-}" ]; then
        gosed seal --config "$work/$1/gosed.toml"
    else
        head -c 32 /dev/urandom | od -An -tx1 -v | tr -d ' \n' >"$work/$1/master.key"
        chmod 600 "$work/$1/master.key"
    fi
    start "$1"
}

# start NAME: starts the gosed of a folder.
start() {
    daemon gosed run --config "$work/$1/gosed.toml"
    until_ready test -S "$work/$1/admin.sock"
}

# readers: starts pcscd with two virtual readers.
readers() {
    cat >"$work/readers/vpcd" <<EOF
FRIENDLYNAME "Virtual PCD"
DEVICENAME /dev/null:0x8C7B
LIBPATH /usr/lib/pcsc/drivers/serial/libifdvpcd.so
CHANNELID 0x8C7B
EOF
    daemon pcscd -f -c "$work/readers"
    until_ready sh -c 'ss -ltn | grep -q :35963'
}

# equip SEID ALGORITHM SLOT[=ALGORITHM] …: initialises an element, makes keys and certificates in these slots.
equip() {
    seid=$1 usual=$2; shift 2
    gose element init "$seid" --socket "$socket" --secrets-file "$work/$seid.secrets" >/dev/null
    for slot; do
        algorithm=$usual
        case $slot in *=*) algorithm=${slot#*=} slot=${slot%%=*} ;; esac
        public="$work/$seid.$slot.pem" certificate="$work/$seid.$slot.crt"
        gose key generate "$seid" "$slot" --alg "$algorithm" --out "$public" \
            --socket "$socket" --secrets "$work/$seid.secrets" >/dev/null
        [ -f "$work/ca.key" ] || openssl ecparam -genkey -name prime256v1 -noout -out "$work/ca.key"
        openssl x509 -new -force_pubkey "$public" -subj "/CN=$seid $slot" -days 30 \
            -signkey "$work/ca.key" -out "$certificate" 2>/dev/null
        gose cert import "$seid" "$slot" "$certificate" --socket "$socket" \
            --secrets "$work/$seid.secrets" >/dev/null
    done
}

# pin SEID: the PIN that initialisation made.
pin() { sed -n 's/^piv-pin = "\(.*\)"$/\1/p' "$work/$1.secrets"; }
