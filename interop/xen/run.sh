#!/bin/bash
# Two paravirtualised guests on a real Xen under QEMU: created by the hypervisor node in dom0, attached by what xenstore tells them,
# the three phases, and attacks of a guest that is root in itself and of somebody at xl. The grid and the authentication
# server are nodes of the host. Judges: Xen's xl and xenstored, the kernel's network, openssl.
[ -n "${GOSE_NAMESPACE:-}" ] || "$(dirname "$0")/testbed.sh"
. "$(dirname "$0")/../begin.sh"
. "$folder/../node.sh"
unset GOSE_SECRETS
. "$folder/../site.sh"
root=$(cd "$folder/../.." && pwd)
bed=$root/target/xen

with_file grid server --san grid.test
with_file auth server --san auth.test
with_file hv hv --spiffe spiffe://test.site/hv/hv-1 --san hv.test
with_file alice client

# The grid with the guests' elements, and the authentication server: on the host.
{
    printf '[listen]\naddress = "127.0.0.1:7777"\n%s\n' "$tls"
    for seid in SE-A SE-B SE-P; do printf '[[slot]]\nseid = "%s"\nkind = "software"\ndefault = "allow"\n' $seid; done
    printf '[[user]]\nid = "spiffe://test.site/hv/hv-1"\nseid = ["SE-A", "SE-B", "SE-P"]\nrole = "admin"\n'
} >"$work/grid.toml"
node grid "$work/grid.toml"
for seid in SE-A SE-B; do init grid "$seid"; identity grid "$seid" eap-client guest peer; done
init grid SE-P
printf '[[slot]]\nseid = "AS1"\nkind = "software"\n' >"$work/auth.toml"
node auth "$work/auth.toml"
init auth AS1; identity auth AS1 eap-server server authenticator
cp "$work/AS1.pin" "$work/auth/pin"; chmod 600 "$work/auth/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
cat >>"$work/auth/gosed.toml" <<END
[listen]
address = "127.0.0.1:7787"
$tls
[authentication-server]
elements = ["AS1"]
identity = "server"
pin = "file:pin"
callers = ["spiffe://test.site/hv/hv-1"]
allow = ["SE-A", "SE-B"]
END
start auth

# The hypervisor's element is made here; its node runs in dom0.
printf '[[slot]]\nseid = "HV"\nkind = "software"\n' >"$work/hv.toml"
node hv "$work/hv.toml"
init hv HV
own="--socket $work/hv/admin.sock --secrets $work/HV.secrets"
gose key generate HV 9C $own >/dev/null
gose key csr HV 9C --name hv-1 $own --out "$work/hv-ca.csr"
issue hv-ca hv-ca "$work/hv-ca.csr" --spiffe spiffe://test.site/hv/hv-1
cp "$work/hv-ca.pem" "$work/hv/"
pin HV >"$work/hv/pin"; chmod 600 "$work/hv/pin"
kill "${daemons##* }"; wait "${daemons##* }" || :
rm -f "$work/hv/admin.sock"
mkdir "$work/hv/pool"; cp "$work/SE-P.secrets" "$work/hv/pool/"
cat >>"$work/hv/gosed.toml" <<END
[listen]
address = "127.0.0.1:7797"
$tls
$(for seid in SE-A SE-B SE-P; do printf '[[slot]]\nseid = "%s"\nkind = "remote"\nnode = "grid.test:7777"\ndefault = "allow"\n' $seid; done)
[hypervisor]
driver = "xen"
join-folder = "/run/gose/domains"
ca-certificate-file = "hv-ca.pem"
ca-key = { seid = "HV", slot = "9C", pin = "file:pin" }
name = "hv.test"
guest-anchor-files = ["ca.pem"]
generation-file = "generations.json"
authentication-server = { node = "auth.test:7787", name = "auth.test" }
[[hypervisor.image]]
name = "guest"
kernel = "/host/vmlinux"
kernel-sha256 = "$(sha256sum "$bed/vmlinux" | cut -d' ' -f1)"
ramdisk = "/host/guest.cpio"
command = ["console=hvc0", "quiet"]
takes-arguments = true
[[hypervisor.pool]]
name = "cards"
seid = ["SE-P"]
secrets-folder = "pool"
[[hypervisor.creator]]
user = "alice"
quota = 1
image = ["guest"]
seid = ["SE-A"]
memory-mib = 256
END

# What dom0 sees of the host: read-only.
share=$work/share
mkdir -p "$share"
for program in gosed gose; do strip -o "$share/$program" "$root/target/debug/$program"; done
cp -r "$work/hv" "$share/hv"
cp "$work/alice/node.pem" "$share/alice.pem"; cp "$work/alice/node.key" "$share/alice.key"; cp "$work/ca.pem" "$share/"
cp "$bed/vmlinux" "$share/vmlinux"
cp "$folder/dom0.sh" "$share/run.sh"
# The guest's image: its programs, and the PINs of its owners. It holds no key.
extra=$work/extra
mkdir -p "$extra/usr/local/bin"
cp "$share/gose" "$extra/usr/local/bin/"
cp "$folder/guest.sh" "$extra/guest.sh"
for seid in SE-A SE-B; do cp "$work/$seid.pin" "$extra/$seid.pin"; done
{ cat "$bed/guest.cpio"; (cd "$extra" && find . | sort | cpio --quiet -o -H newc -R 0:0); } >"$share/guest.cpio"

begun=$(date +%s)
timeout "${GOSE_XEN_LIMIT:-560}" qemu-system-x86_64 -machine q35 -accel tcg,thread=multi,tb-size=512 -cpu max,-smap -smp 2 -m 3G \
    -display none -vga none -monitor none -serial stdio -no-reboot \
    -netdev user,id=n0 -device virtio-net-pci,netdev=n0,romfile= \
    -virtfs "local,path=$share,mount_tag=host,security_model=none,readonly=on" -kernel "$bed/xen.elf" \
    -append "console=com1 com1=115200,8n1 loglvl=warning guest_loglvl=warning dom0_mem=1600M,max:1600M dom0_max_vcpus=1 spec-ctrl=eager-fpu" \
    -initrd "$bed/vmlinux console=hvc0 quiet,$bed/dom0.cpio" </dev/null >"$work/console.log" 2>&1 || :
tr -d '\r' <"$work/console.log" | sed 's/\x1b\[[0-9;]*m//g' >"$work/console.txt"
[ -z "${GOSE_XEN_KEEP:-}" ] || cp "$work/console.txt" "$GOSE_XEN_KEEP"

# What was said in dom0 and in the guests: "case ok|FAILED NAME" a line, "time NAME MILLISECONDS", "attack …".
while IFS= read -r line; do
    case $line in
    *"case ok "*) check "${line#*case ok }" true ;;
    *"case FAILED "*) check "${line#*case FAILED }" false ;;
    esac
done <"$work/console.txt"
token=$work/token.pem
sed -n '/^token begins/,/^token ends/p' "$work/console.txt" | sed '/^token/d' >"$token"
check "openssl verifies guest A's token, which xenstore brought and the attach channel renewed" \
    openssl verify -CAfile "$work/ca.pem" -untrusted "$token" "$token"
check "everything was run to its end" grep -q '^run.sh ended with 0' "$work/console.txt"
check "no crash anywhere: the emulation is sound" sh -c "! grep -E 'Segmentation fault|Inconsistency detected|BUG:|Oops' $work/console.txt"
check "dom0 told at least 30 cases" test "$(grep -c 'case ' "$work/console.txt")" -ge 30
echo "times on Xen 4.17 under QEMU without KVM, beside the paper's table (docs/paper.md):"
sed -n 's/.*time \(.*\) \([0-9.]*\)$/       \1: \2 ms/p' "$work/console.txt"
echo "attacks, and what stopped each:"
sed -n 's/.*attack \(.*\)/       \1/p' "$work/console.txt"
echo "       the machine ran for $(($(date +%s) - begun)) s"
[ $failed = 0 ] || { echo "--- console"; tail -n 150 "$work/console.txt"; }
finish
