#!/bin/sh
# Builds a machine with a real Xen under target/xen: hypervisor, kernel, and the initramfs of a dom0 and of a guest, out
# of unmodified packages of Debian bookworm. What is there is not built again.
#
# Facts that are in here: PV kernels need QEMU 7.2 to hide SMAP, and Xen's lazy FPU corrupts registers under TCG, so Xen
# gets spec-ctrl=eager-fpu; a kernel as ELF boots seconds faster than one that unpacks itself under TCG; libgcc_s must be
# in dom0 or xl aborts at its end; an initramfs may be several uncompressed cpio archives one after the other.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/target/xen
mkdir -p "$out"
cd "$out"
xen=4.17

if [ ! -f vmlinux ]; then
    mkdir -p packages
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    (cd packages && apt-get -qq download "$kernel" "xen-hypervisor-$xen-amd64")
    rm -rf unpacked
    for package in packages/*.deb; do dpkg -x "$package" unpacked; done
    zcat "unpacked/boot/xen-$xen-amd64.gz" >xen.elf
    echo "${kernel#linux-image-}" >version
    python3 - "unpacked/boot/vmlinuz-$(cat version)" vmlinux.new <<'END'
import lzma, struct, sys
image = open(sys.argv[1], "rb").read()
# Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length
setup = image[0x1F1] or 4
offset, length = struct.unpack_from("<II", image, 0x248)
begin = (setup + 1) * 512 + offset
payload = image[begin:begin + length]
assert payload[:6] == b"\xfd7zXZ\0", "the kernel is packed another way: %r" % payload[:6]
open(sys.argv[2], "wb").write(lzma.LZMADecompressor().decompress(payload))
END
    depmod -b unpacked "$(cat version)"
    mv vmlinux.new vmlinux
fi
version=$(cat version)

[ -d tree/usr/lib/xen-$xen ] || {
    rm -rf tree
    mmdebstrap --quiet --variant=extract \
        --include=xen-utils-$xen,xen-utils-common,xenstore-utils,busybox-static,libc-bin,libgcc-s1 bookworm tree
}

# program ROOT NAME …: programs of the tree with what the linker loads for them.
program() {
    root=$1; shift
    for name; do
        path=
        for folder in usr/lib/xen-$xen/bin usr/sbin usr/bin sbin bin; do
            if [ -f "tree/$folder/$name" ]; then path=$folder/$name; break; fi
        done
        [ -n "$path" ] || { echo "no program $name in the tree" >&2; exit 1; }
        mkdir -p "$root/$(dirname "$path")"
        cp -L "tree/$path" "$root/$path"
        chroot tree /lib64/ld-linux-x86-64.so.2 --list "/$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
            if [ -f "tree$library" ]; then mkdir -p "$root/$(dirname "$library")"; cp -L "tree$library" "$root$library"; fi
        done
    done
}
# modules ROOT NAME …: modules of the kernel with those that they need.
modules() {
    root=$1; shift
    for name; do
        modprobe -d "$out/unpacked" -S "$version" --show-depends "$name" | grep -o '/[^ ]*\.ko[^ ]*' | while read -r module; do
            inside=${module#"$out/unpacked"}
            mkdir -p "$root/$(dirname "$inside")"
            cp "$module" "$root$inside"
        done
    done
    cp "unpacked/lib/modules/$version/modules.order" "unpacked/lib/modules/$version/modules.builtin" \
        "unpacked/lib/modules/$version/modules.builtin.modinfo" "$root/lib/modules/$version/"
    depmod -b "$root" "$version"
}
base() {
    rm -rf "$1"
    mkdir -p "$1/bin" "$1/sbin" "$1/lib64" "$1/usr/bin" "$1/usr/sbin" "$1/etc" "$1/proc" "$1/sys" "$1/dev" "$1/run" "$1/tmp" "$1/root" "$1/host" \
        "$1/var/lib/xen" "$1/var/lib/xenstored" "$1/var/log/xen/console" "$1/usr/local/bin" "$1/lib/x86_64-linux-gnu" "$1/lib/modules/$version"
    cp -L tree/bin/busybox "$1/bin/busybox"
    for applet in $("$1/bin/busybox" --list | grep -vx busybox); do ln -s /bin/busybox "$1/bin/$applet"; done
    cp -L tree/lib64/ld-linux-x86-64.so.2 "$1/lib64/"
    for library in libc.so.6 libm.so.6 libgcc_s.so.1; do cp -L "tree/lib/x86_64-linux-gnu/$library" "$1/lib/x86_64-linux-gnu/"; done
    ln -s /run "$1/var/run"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
    echo 'root:x:0:' >"$1/etc/group"
    echo 'hosts: files' >"$1/etc/nsswitch.conf"
}
archive() { (cd "$1" && find . | sort | cpio --quiet -o -H newc -R 0:0) >"$1.cpio.new" && mv "$1.cpio.new" "$1.cpio"; }

if [ ! -f dom0.cpio ] || [ "$here/testbed.sh" -nt dom0.cpio ] || [ "$here/dom0-init" -nt dom0.cpio ]; then
    base dom0
    program dom0 xl libxl-save-helper xenstored xenconsoled xen-init-dom0 xenstore-read xenstore-write xenstore-ls xenstore-list \
        xenstore-rm xenstore-exists xenstore-chmod
    mkdir -p dom0/etc/xen/scripts
    printf 'autoballoon="off"\nlockfile="/run/xl.lock"\n' >dom0/etc/xen/xl.conf
    modules dom0 xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xenfs xen-netback virtio_pci virtio_net 9p 9pnet_virtio
    cp "$here/dom0-init" dom0/init
    chmod +x dom0/init
    archive dom0
fi
if [ ! -f guest.cpio ] || [ "$here/testbed.sh" -nt guest.cpio ] || [ "$here/guest-init" -nt guest.cpio ]; then
    base guest
    program guest xenstore-read xenstore-write xenstore-list
    modules guest xen-evtchn xenfs xen-netfront
    cp "$here/guest-init" guest/init
    chmod +x guest/init
    archive guest
fi
