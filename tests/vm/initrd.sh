#!/busybox sh
# pid 1 of a QEMU guest until it sees the host's tree: loads the modules that takes, mounts it, and goes on with init.sh in there.
/busybox mount -t proc proc /proc
/busybox mount -t devtmpfs dev /dev
while read -r module; do
	/busybox insmod "/modules/$module"
done </modules/order
for word in $(/busybox cat /proc/cmdline); do
	case $word in init=*) init=${word#*=} ;; esac
done
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose host /host
/busybox umount /proc /dev
exec /busybox switch_root /host /bin/bash "$init"
