#!/bin/bash
# pid 1 of a guest that guest.py boots: the host's tree under a layer in memory, cgroups as asked for, then the command.
#
# It is run twice: on the root that the kernel mounted, which is the host's tree and read-only, and again on the overlay over it;
# with cgroups=systemd it leaves pid 1 to systemd then, whose service runs it a third time.
# From the kernel's command line: job=DIRECTORY (of the host: has `command`, gets `output` and `status`), show=DIRECTORIES of the
# host (with commas) that are below a directory that the guest has for itself, cgroups=v2|v1|hybrid|none|systemd,
# modules=DIRECTORY, disk=DEVICE (an ext4), tree=DIRECTORY of the host's that is to be the guest's root in the place of the host's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8

read_arguments() {
	mount -t proc proc /proc
	eval "$(tr ' ' '\n' </proc/cmdline | grep -E '^(job|show|cgroups|modules|disk|tree)=[-_./,[:alnum:]]*$')"
}

on_the_host_tree() {
	grep -qw overlay /proc/filesystems || insmod "$modules/kernel/fs/overlayfs/overlay.ko" || exit
	mount -t tmpfs -o mode=755 layer /mnt
	mkdir /mnt/upper /mnt/work /mnt/root
	mount -t overlay -o "lowerdir=${tree:-/},upperdir=/mnt/upper,workdir=/mnt/work" root /mnt/root
	mkdir /mnt/root/.host
	[ -z "$tree" ] || install -D "$0" "/mnt/root$0"
	cd /mnt/root && pivot_root . .host && exec chroot . /bin/bash "$0" again
	exit 1
}

mount_file_systems() {
	mount -t sysfs sysfs /sys
	mount -t devtmpfs dev /dev
	mkdir -p /dev/pts /dev/shm /dev/mqueue
	mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
	mount -t tmpfs -o mode=1777 shm /dev/shm
	mount -t mqueue mqueue /dev/mqueue
	[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
	# For tests that meet a limit of huge pages; nobody else wants them here.
	{ echo 8 >/proc/sys/vm/nr_hugepages; } 2>/dev/null
	# Layers of overlays can lie here, as they can on a disk; on the guest's own overlay they cannot.
	mount -t tmpfs -o mode=755 run /run
	mount -t tmpfs -o mode=1777 tmp /tmp
	mount -t tmpfs -o mode=1777 tmp /var/tmp
	for directory in ${show//,/ }; do
		mkdir -p "$directory"
		mount --bind "/.host$directory" "$directory"
	done
	# The kernel loads what it needs by itself (IPv6, sock_diag for UDP), if it finds it.
	[ -z "$modules" ] || { mkdir -p /lib/modules && ln -sfn "$modules" "/lib/modules/$(uname -r)" && modprobe loop; }
	[ -z "$disk" ] || { mount -t ext4 "$disk" /var/tmp && chmod 1777 /var/tmp; }
	mkdir -p "$job"
	if grep -qw hostfs /proc/filesystems; then # User-Mode Linux
		# Newer kernels take names for options, and newer mounts nothing else; older kernels take a directory.
		mount -t hostfs -o "hostfs=$job" none "$job" || mount -t hostfs -o "$job" none "$job"
		# The end of a process with a mapped ring (Chromium's) is a panic now and then: "Bad page map ... io_uring_mmap".
		{ echo 2 >/proc/sys/kernel/io_uring_disabled; } 2>/dev/null
	else # QEMU
		mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 job "$job"
	fi
	mount --make-rprivate /
	umount -l /.host
}

# The command runs in `guest/command`, and may do below `guest` as it likes, as in a scope that systemd has delegated.
mount_cgroups() {
	local top=/sys/fs/cgroup controller
	case $cgroups in
	none) return ;;
	systemd)
		mount -t cgroup2 -o nsdelegate cgroup2 $top
		return
		;;
	v2)
		mount -t cgroup2 -o nsdelegate cgroup2 $top
		mkdir -p $top/guest/command
		for controller in $(cat $top/cgroup.controllers); do
			echo "+$controller" >$top/cgroup.subtree_control
			echo "+$controller" >$top/guest/cgroup.subtree_control
		done
		echo $$ >$top/guest/command/cgroup.procs
		export SANDBOX_TESTS_CGROUP=$top/guest
		return
		;;
	esac
	mount -t tmpfs -o mode=755 cgroup $top
	for controller in memory pids cpu,cpuacct blkio freezer; do
		mkdir $top/$controller
		mount -t cgroup -o $controller cgroup $top/$controller || rmdir $top/$controller
	done
	if [ "$cgroups" = hybrid ]; then
		mkdir $top/unified
		mount -t cgroup2 -o nsdelegate cgroup2 $top/unified
	fi
}

# Of the host's units none is run but what a user's manager takes, so nothing of the host's has to be known and masked. There is an
# ordinary user, `tester`, who has such a manager all the time, and sessions by `su - tester`.
become_systemd() {
	local own=/lib/systemd/system units=/run/guest-units user
	useradd --create-home --shell /bin/bash tester
	user=user@$(id -u tester).service
	mkdir -p /var/lib/systemd/linger $units
	touch /var/lib/systemd/linger/tester
	cp -r $own/*.target $own/*.slice $own/user-.slice.d $own/user@* $own/user-runtime-dir@.service $units
	cp $own/dbus.s* $own/systemd-logind.service $units
	ln -s systemd-logind.service $units/dbus-org.freedesktop.login1.service
	cat >$units/guest.service <<-END
		[Unit]
		DefaultDependencies=no
		AllowIsolate=yes
		Wants=dbus.socket systemd-logind.service $user
		After=dbus.socket systemd-logind.service $user
		[Service]
		Type=oneshot
		ExecStart=/bin/bash $0 command
	END
	exec env -i PATH=$PATH SYSTEMD_UNIT_PATH=$units /lib/systemd/systemd --unit=guest.service --show-status=no
}

run_command() {
	setsid -w bash "$job/command" >"$job/output" 2>&1 </dev/null
	echo $? >"$job/status"
	off
}

off() {
	sync
	echo 1 >/proc/sys/kernel/sysrq
	echo o >/proc/sysrq-trigger
	sleep 10
}

read_arguments
case $1 in
again) ;;
command) run_command ;;
*) on_the_host_tree ;;
esac
mount_file_systems
mount_cgroups
ip link set lo up
hostname guest
[ "$cgroups" != systemd ] || become_systemd
run_command
