#!/bin/sh
# Builds what a guest boots under target/libvirt, out of unmodified packages of Debian: its kernel, and an initramfs with
# busybox and three modules. What is there is not built again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$(cd "$here/../.." && pwd)/target/libvirt
mkdir -p "$out"
cd "$out"
if [ ! -f vmlinuz ]; then
    mkdir -p packages
    kernel=$(apt-cache depends linux-image-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
    (cd packages && apt-get -qq -o APT::Sandbox::User=root download "$kernel")
    rm -rf unpacked
    for package in packages/*.deb; do dpkg -x "$package" unpacked; done
    echo "${kernel#linux-image-}" >version
    depmod -b unpacked "$(cat version)"
    cp "unpacked/boot/vmlinuz-$(cat version)" vmlinuz.new
    mv vmlinuz.new vmlinuz
fi
version=$(cat version)
if [ -f guest.cpio ] && [ guest.cpio -nt "$here/testbed.sh" ] && [ guest.cpio -nt "$here/guest-init" ]; then exit 0; fi
rm -rf guest
mkdir -p guest/bin guest/sbin guest/lib64 guest/usr/bin guest/usr/sbin guest/etc guest/proc guest/sys guest/dev guest/run guest/tmp guest/root \
    guest/lib/x86_64-linux-gnu "guest/lib/modules/$version" guest/www/cgi-bin
cp -L "$(command -v busybox)" guest/bin/busybox
for applet in $(busybox --list | grep -vx busybox); do ln -s /bin/busybox "guest/bin/$applet"; done
cp -L /lib64/ld-linux-x86-64.so.2 guest/lib64/
for library in libc.so.6 libm.so.6 libgcc_s.so.1; do cp -L "/lib/x86_64-linux-gnu/$library" guest/lib/x86_64-linux-gnu/; done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >guest/etc/passwd
for name in virtio_pci virtio_net qemu_fw_cfg; do
    modprobe -d "$out/unpacked" -S "$version" --show-depends "$name" | grep -o '/[^ ]*\.ko[^ ]*' | while read -r module; do
        inside=${module#"$out/unpacked"}
        mkdir -p "guest/$(dirname "$inside")"
        cp "$module" "guest$inside"
    done
done
for list in modules.order modules.builtin modules.builtin.modinfo; do cp "unpacked/lib/modules/$version/$list" "guest/lib/modules/$version/"; done
depmod -b guest "$version"
cp "$here/guest-init" guest/init
cp "$here/guest-run" guest/www/cgi-bin/run
chmod +x guest/init guest/www/cgi-bin/run
(cd guest && find . | sort | cpio --quiet -o -H newc -R 0:0) >guest.cpio.new
mv guest.cpio.new guest.cpio
