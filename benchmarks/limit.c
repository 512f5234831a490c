/* The limit: what the system calls of one sandbox cost by themselves, without Python.
 *
 *     limit [--count N] [--resident MB] [--cgroup DIRECTORY]... PLACE
 *
 * Makes N sandboxes, one after the other, as `pytest --sandbox` makes those of tests, each with the same system calls in the
 * same order, and prints the microseconds that one took, on the average. PLACE is an empty directory, where the layers are
 * mounted; cgroups are made below each DIRECTORY, of version 1 or 2. Runs as root, or as an ordinary user.
 *
 *     starter   forked first, while this process is small: clones each init into its namespaces, and writes its maps. It is
 *               what the init of the session is to the plugin.
 *     init      pid 1 of a sandbox: layers, mounts, pivot_root, loopback, descriptors of its namespaces, privileges given up;
 *               waits for main, and looks at what is left. What pytest_sandbox/_linux/native/init.c does for a test.
 *     scope     this process, with the memory that --resident dirties before (0 without it): two helpers that share its memory
 *               enter the namespaces and fork main, as in pytest_sandbox/_linux/native/enter.c.
 *     main      enters its cgroups, takes a cgroup namespace, gives up privileges, and exits.
 *
 * Left out is what belongs to Python or to the verdict: frames and reports, output files, descriptors exchanged in main,
 * sock_diag, a look for what listens. Also the overlays of further file systems, of which a machine may have any number: here are
 * those of / (of each top-level directory, as a user) and of /dev/shm. And the plugin makes the next sandboxes while a test runs;
 * here nothing is done beside anything else. To see both: strace -f, in which the calls from clone3 to the exit of init are alike.
 *
 * Sources: clone3(2), user_namespaces(7), mount(2), mount_setattr(2), pivot_root(2), cgroups(7).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CGROUPS = 8, MOST_LOWERS = 64, JOIN_SESSION_KEYRING = 1, READ_ONLY = 1 };

/* As <linux/sched.h> and <linux/mount.h> have them, which older C libraries contradict. */
struct clone_request {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
struct mount_change { uint64_t set, clear, propagation, userns; };

static const char *place, *cgroups[MOST_CGROUPS];
static int cgroup_count;
static int as_root;
/* What each sandbox has an overlay of: its path below the new root, and that of what lies below. */
static struct { char target[NAME_MAX + 2], lower[PATH_MAX]; } lowers[MOST_LOWERS];
static int lower_count;
static unsigned last_capability;

static _Noreturn void fail(const char *what, const char *object)
{
	fprintf(stderr, "limit: %s %s: %s\n", what, object, strerror(errno));
	exit(1);
}

#define CHECK(call, object) ((call) < 0 ? fail(#call, object) : (void)0)

static const char *in_place(const char *format, int number)
{
	static char path[PATH_MAX];
	int length = snprintf(path, sizeof path, "%s", place);

	snprintf(path + length, sizeof path - (size_t)length, format, number);
	return path;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	CHECK(fd, path);
	CHECK(write(fd, text, strlen(text)), path);
	close(fd);
}

static void read_file(const char *path)
{
	static char into[1 << 16];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return; /* the other version of cgroups has it */
	while (read(fd, into, sizeof into) > 0)
		;
	close(fd);
}

static void make_directory(const char *path, mode_t mode)
{
	CHECK(mkdir(path, 0777), path);
	CHECK(chmod(path, mode), path);
}

static void receive(int fd, void *into, size_t size)
{
	if (read(fd, into, size) != (ssize_t)size) {
		errno = EPIPE;
		fail("read", "from another process of the benchmark, which has failed");
	}
}

static void give_up_privileges(uint32_t keep)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{keep, keep, 0}, {0, 0, 0}};

	for (unsigned capability = 0; capability <= last_capability; capability++)
		CHECK(prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), "");
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "");
	CHECK(syscall(SYS_capset, &header, data), "");
}

/* ---- the machine's side, once ------------------------------------------------------------------------------------- */

static void write_maps(pid_t pid)
{
	const char *map = as_root ? "0 0 65536" : "0 0 1";
	char path[64];

	if (!as_root) {
		snprintf(path, sizeof path, "/proc/%d/setgroups", pid);
		write_file(path, "deny");
	}
	snprintf(path, sizeof path, "/proc/%d/uid_map", pid);
	write_file(path, map);
	snprintf(path, sizeof path, "/proc/%d/gid_map", pid);
	write_file(path, map);
}

static void become_root_of_a_namespace(void)
{
	char map[64];
	unsigned uid = getuid(), gid = getgid();

	CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS), "");
	write_file("/proc/self/setgroups", "deny");
	snprintf(map, sizeof map, "0 %u 1", uid);
	write_file("/proc/self/uid_map", map);
	snprintf(map, sizeof map, "0 %u 1", gid);
	write_file("/proc/self/gid_map", map);
}

/*
 * A mount without what is mounted on it, to lie below overlays. A user has none of a directory on which something is mounted: the
 * kernel locks that, since it may be there to hide what is below (EINVAL).
 */
static void add_lower(const char *path, const char *target)
{
	char *lower = lowers[lower_count].lower;

	strcpy(lower, in_place("/base/%d", lower_count));
	make_directory(lower, 0755);
	if (mount(path, lower, NULL, MS_BIND, NULL))
		as_root ? fail("bind", path) : CHECK(rmdir(lower), lower);
	else
		strcpy(lowers[lower_count++].target, target);
}

static int is_kernels(const char *path)
{
	return !strcmp(path, "/proc") || !strcmp(path, "/sys") || !strcmp(path, "/dev");
}

static void find_lowers(void)
{
	char path[NAME_MAX + 2];
	DIR *root;

	make_directory(in_place("/base", 0), 0755);
	if (as_root) {
		add_lower("/", "");
		return;
	}
	root = opendir("/");
	for (struct dirent *entry; root && (entry = readdir(root)) && lower_count < MOST_LOWERS;) {
		snprintf(path, sizeof path, "/%s", entry->d_name);
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.' && !is_kernels(path))
			add_lower(path, path);
	}
	if (root)
		closedir(root);
}

static void prepare_devices(void)
{
	static const char *const names[] = {"null", "zero", "full", "random", "urandom", "tty"};
	char from[64];

	make_directory(in_place("/dev", 0), 0755);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		int fd;

		snprintf(from, sizeof from, "/dev/%s", names[i]);
		fd = open(in_place(from, 0), O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
		CHECK(fd, from);
		close(fd);
		CHECK(mount(from, in_place(from, 0), NULL, MS_BIND, NULL), from);
	}
	make_directory(in_place("/dev/shm", 0), 01777);
	make_directory(in_place("/dev/pts", 0), 0755);
	make_directory(in_place("/dev/mqueue", 0), 0755);
}

/* What all sandboxes share: the machine's files, devices, and the layer of the scope around them, which is empty here. */
static void prepare(void)
{
	as_root = getuid() == 0;
	if (as_root)
		CHECK(unshare(CLONE_NEWNS), "");
	else
		become_root_of_a_namespace();
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
	CHECK(mount("store", place, "tmpfs", MS_NOSUID, "mode=755"), place);
	make_directory(in_place("/root", 0), 0755);
	make_directory(in_place("/L0", 0), 0755);
	make_directory(in_place("/L1", 0), 0755);
	find_lowers();
	for (int i = 0; i <= lower_count; i++)
		make_directory(in_place("/L0/%d", i), 0755);
	prepare_devices();
	while (prctl(PR_CAPBSET_READ, last_capability + 1, 0, 0, 0) >= 0)
		last_capability++;
}

/* ---- init --------------------------------------------------------------------------------------------------------- */

static void mount_layers(void)
{
	char data[PATH_MAX * 4], target[PATH_MAX];

	CHECK(mount("sandbox", in_place("/L1", 0), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1g,nr_inodes=200000"), "L1");
	make_directory(in_place("/L1/u", 0), 0755);
	make_directory(in_place("/L1/w", 0), 0755);
	for (int i = 0; i <= lower_count; i++) {
		make_directory(in_place("/L1/u/%d", i), 0755);
		CHECK(chown(in_place("/L1/u/%d", i), 0, 0), "L1/u");
		make_directory(in_place("/L1/w/%d", i), 0755);
	}
	if (!as_root) { /* a user's root is a tmpfs with mount points, and an overlay on each */
		CHECK(mount("root", in_place("/root", 0), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m"), "root");
		for (int i = 0; i < lower_count; i++)
			CHECK(mkdir(strcat(strcpy(target, in_place("/root", 0)), lowers[i].target), 0755), target);
		CHECK(mkdir(in_place("/root/proc", 0), 0755), "proc");
		CHECK(mkdir(in_place("/root/sys", 0), 0755), "sys");
		CHECK(mkdir(in_place("/root/dev", 0), 0755), "dev");
	}
	for (int i = 0; i < lower_count; i++) {
		snprintf(data, sizeof data, "lowerdir=%s/L0/%d:%s,upperdir=%s/L1/u/%d,workdir=%s/L1/w/%d,userxattr", place, i,
			 lowers[i].lower, place, i, place, i);
		strcat(strcpy(target, in_place("/root", 0)), lowers[i].target);
		CHECK(mount("overlay", target, "overlay", 0, data), lowers[i].lower);
	}
	CHECK(mount(in_place("/dev", 0), strcat(strcpy(target, in_place("/root", 0)), "/dev"), NULL, MS_BIND | MS_REC, NULL), "dev");
	snprintf(data, sizeof data, "lowerdir=%s/L0/%d:%s/dev/shm,upperdir=%s/L1/u/%d,workdir=%s/L1/w/%d,userxattr", place,
		 lower_count, place, place, lower_count, place, lower_count);
	CHECK(mount("overlay", in_place("/root/dev/shm", 0), "overlay", 0, data), "/dev/shm");
}

static void mount_kernel_file_systems(void)
{
	const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;

	CHECK(mount("devpts", in_place("/root/dev/pts", 0), "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"),
	      "devpts");
	CHECK(mount("mqueue", in_place("/root/dev/mqueue", 0), "mqueue", safe, NULL), "mqueue");
	CHECK(mount("proc", in_place("/root/proc", 0), "proc", safe, NULL), "proc");
	CHECK(mount("sysfs", in_place("/root/sys", 0), "sysfs", safe | MS_RDONLY, NULL), "sysfs");
}

/* What is not there needs no cover. */
static void hide_and_protect(void)
{
	static const char *const hidden[] = {"/root/proc/acpi", "/root/sys/firmware"};
	static const char *const files[] = {"/root/proc/keys", "/root/proc/timer_list"};
	static const char *const protected[] = {"/root/proc/bus", "/root/proc/fs", "/root/proc/irq", "/root/proc/sys"};
	struct mount_change change = {.set = READ_ONLY};
	char nothing[PATH_MAX];

	strcpy(nothing, in_place("/root/dev/null", 0));
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
		if (mount("hidden", in_place(hidden[i], 0), "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=555"))
			errno == ENOENT ? (void)0 : fail("mount over", hidden[i]);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++)
		if (mount(nothing, in_place(files[i], 0), NULL, MS_BIND, NULL))
			errno == ENOENT ? (void)0 : fail("mount over", files[i]);
	for (size_t i = 0; i < sizeof protected / sizeof *protected; i++) {
		const char *path = in_place(protected[i], 0);

		CHECK(mount(path, path, NULL, MS_BIND, NULL), path);
		CHECK(syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &change, sizeof change), path);
	}
}

static void raise_loopback(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	CHECK(fd, "");
	CHECK(ioctl(fd, SIOCSIFFLAGS, &request), "lo");
	close(fd);
}

static const char *const namespaces[] = {"user", "mnt", "pid", "net", "ipc", "uts"};
enum { NAMESPACES = sizeof namespaces / sizeof *namespaces };

static void send_namespaces(int socket)
{
	union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int) * NAMESPACES)]; } control = {0};
	struct iovec byte = {"r", 1};
	struct msghdr message = {
		.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof(int) * NAMESPACES),
	};
	int descriptors[NAMESPACES];
	char path[64];

	for (int i = 0; i < NAMESPACES; i++) {
		snprintf(path, sizeof path, "/proc/self/ns/%s", namespaces[i]);
		descriptors[i] = open(path, O_RDONLY | O_CLOEXEC);
		CHECK(descriptors[i], path);
	}
	control.header = (struct cmsghdr){.cmsg_len = message.msg_controllen, .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.header), descriptors, sizeof descriptors);
	CHECK(sendmsg(socket, &message, MSG_NOSIGNAL), "");
	for (int i = 0; i < NAMESPACES; i++)
		close(descriptors[i]);
}

static void wait_for_main(int socket)
{
	struct rusage usage;
	char word;

	receive(socket, &word, 1); /* main is there, as our child, since its parent has ended */
	while (wait(NULL) > 0)
		;
	getrusage(RUSAGE_CHILDREN, &usage);
	read_file("/proc/net/dev");
	CHECK(write(socket, &usage, sizeof usage), "");
}

static _Noreturn void be_init(int socket)
{
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "/");
	mount_layers();
	mount_kernel_file_systems();
	hide_and_protect();
	CHECK(chdir(in_place("/root", 0)), "root");
	CHECK(syscall(SYS_pivot_root, ".", "."), "root");
	CHECK(umount2(".", MNT_DETACH), "the old root");
	CHECK(chdir("/"), "/");
	raise_loopback();
	give_up_privileges(1U << CAP_KILL);
	send_namespaces(socket);
	wait_for_main(socket);
	_exit(0);
}

/* ---- starter ------------------------------------------------------------------------------------------------------ */

static void start_init(int socket)
{
	struct clone_request request = {
		.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS, .exit_signal = SIGCHLD,
	};
	int mapped[2];
	char byte;
	pid_t pid;

	CHECK(pipe2(mapped, O_CLOEXEC), "");
	pid = (pid_t)syscall(SYS_clone3, &request, sizeof request);
	CHECK(pid, "");
	if (pid == 0) {
		close(mapped[1]);
		receive(mapped[0], &byte, 1);
		close(mapped[0]);
		be_init(socket);
	}
	write_maps(pid);
	CHECK(write(mapped[1], "x", 1), "");
	close(mapped[0]);
	close(mapped[1]);
}

/* For each word of the scope an init, which then has the socket for itself until it has ended. */
static _Noreturn void be_starter(int words, int socket)
{
	char word;
	int status;

	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0), "");
	while (read(words, &word, 1) == 1) {
		start_init(socket);
		wait(&status);
		if (status)
			_exit(1);
		CHECK(write(words, "d", 1), "");
	}
	_exit(0);
}

/* ---- scope and main ----------------------------------------------------------------------------------------------- */

struct entry {
	int namespaces[NAMESPACES];
	int tasks[MOST_CGROUPS];
	int given; /* main's end of a pair of sockets */
	volatile pid_t forker;
	_Alignas(16) char joiner_stack[32 << 10], forker_stack[64 << 10];
};

static void outlive_forker(void)
{
	struct timespec at_once = {0, 0};
	sigset_t end;

	sigemptyset(&end);
	sigaddset(&end, SIGUSR1);
	prctl(PR_SET_PDEATHSIG, SIGUSR1, 0, 0, 0);
	while (getppid() != 1)
		sigwaitinfo(&end, NULL);
	prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0);
	setsid();
	sigtimedwait(&end, NULL, &at_once);
}

static _Noreturn void be_main(const struct entry *entry)
{
	char word;

	outlive_forker();
	for (int i = 0; i < cgroup_count; i++)
		CHECK(write(entry->tasks[i], "0", 1), cgroups[i]);
	CHECK(unshare(CLONE_NEWCGROUP), "");
	give_up_privileges(0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "");
	CHECK(write(entry->given, "m", 1), "");
	receive(entry->given, &word, 1);
	_exit(0);
}

static int forker(void *argument)
{
	pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (pid == 0)
		be_main(argument);
	return pid < 0;
}

static int joiner(void *argument)
{
	struct entry *entry = argument;
	struct rlimit none = {0, 0};

	for (int i = 0; i < NAMESPACES; i++)
		if (setns(entry->namespaces[i], 0) || close(entry->namespaces[i]))
			return 1;
	if (chdir("/"))
		return 1;
	syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL);
	setrlimit(RLIMIT_CORE, &none); /* the scope's is another process's: limits are not memory */
	return clone(forker, entry->forker_stack + sizeof entry->forker_stack, CLONE_VM | CLONE_PARENT | CLONE_PARENT_SETTID, entry,
		     &entry->forker) < 0;
}

static void fork_main(struct entry *entry)
{
	int status = 0;
	sigset_t all, mask;
	pid_t pid;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	entry->forker = 0;
	pid = clone(joiner, entry->joiner_stack + sizeof entry->joiner_stack, CLONE_VM, entry);
	CHECK(pid, "");
	waitpid(pid, &status, __WALL);
	if (entry->forker > 0)
		waitpid(entry->forker, NULL, __WALL);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	sigprocmask(SIG_SETMASK, &mask, NULL);
	if (status || entry->forker <= 0)
		fail("fork main into its", "namespaces");
}

static const char *cgroup_path(int which, int number, const char *file)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof path, "%s/limit-%d/%s", cgroups[which], number, file);
	return path;
}

static int open_cgroup(int which, int number)
{
	static const struct { const char *file, *text; } limits[] = {
		{"memory.limit_in_bytes", "2147483648"}, {"memory.swappiness", "0"}, {"memory.max", "2147483648"},
		{"memory.swap.max", "0"}, {"pids.max", "512"},
	};
	int fd;

	CHECK(mkdir(cgroup_path(which, number, ""), 0755), cgroups[which]);
	for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
		fd = open(cgroup_path(which, number, limits[i].file), O_WRONLY | O_CLOEXEC);
		if (fd < 0)
			continue; /* another controller's, or the other version's */
		CHECK(write(fd, limits[i].text, strlen(limits[i].text)), limits[i].file);
		close(fd);
	}
	fd = open(cgroup_path(which, number, "tasks"), O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		fd = open(cgroup_path(which, number, "cgroup.procs"), O_WRONLY | O_CLOEXEC);
	CHECK(fd, cgroups[which]);
	return fd;
}

static void close_cgroup(int which, int number)
{
	static const char *const figures[] = {
		"cpuacct.usage", "memory.max_usage_in_bytes", "memory.oom_control", "memory.failcnt", "memory.stat", "pids.peak",
		"pids.events", "cpu.stat", "memory.peak", "memory.events", "cgroup.procs",
	};
	int fd;

	for (size_t i = 0; i < sizeof figures / sizeof *figures; i++)
		read_file(cgroup_path(which, number, figures[i]));
	fd = open(cgroup_path(which, number, "cgroup.kill"), O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		CHECK(write(fd, "1", 1), cgroups[which]);
		close(fd);
	}
	CHECK(rmdir(cgroup_path(which, number, "")), cgroups[which]);
}

static void receive_namespaces(int socket, struct entry *entry)
{
	union { struct cmsghdr header; char space[CMSG_SPACE(sizeof(int) * NAMESPACES)]; } control;
	char byte;
	struct iovec vector = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
	};

	errno = EPIPE;
	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen < CMSG_LEN(sizeof(int) * NAMESPACES))
		fail("receive", "the namespaces");
	memcpy(entry->namespaces, CMSG_DATA(&control.header), sizeof entry->namespaces);
}

/* Main says that it is in, and both it and init get their word to go. */
static void let_run(int main, int init)
{
	char word;

	receive(main, &word, 1);
	CHECK(write(main, "g", 1), "main");
	CHECK(write(init, "m", 1), "init");
}

/* `words` lead to starter, `socket` to init. */
static void make_sandbox(struct entry *entry, int number, int words, int socket)
{
	struct rusage usage;
	int ends[2];
	char word;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "");
	entry->given = ends[1];
	for (int i = 0; i < cgroup_count; i++)
		entry->tasks[i] = open_cgroup(i, number);
	CHECK(write(words, "i", 1), "");
	receive_namespaces(socket, entry);
	fork_main(entry);
	close(ends[1]);
	let_run(ends[0], socket);
	close(ends[0]);
	for (int i = 0; i < NAMESPACES; i++)
		close(entry->namespaces[i]);
	for (int i = 0; i < cgroup_count; i++)
		close(entry->tasks[i]);
	receive(socket, &usage, sizeof usage);
	receive(words, &word, 1);
	for (int i = 0; i < cgroup_count; i++)
		close_cgroup(i, number);
}

static void dirty(size_t bytes)
{
	volatile char *memory = bytes ? malloc(bytes) : NULL;

	for (size_t at = 0; memory && at < bytes; at += 4096)
		memory[at] = 1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

int main(int argc, char **argv)
{
	static struct entry entry;
	int words[2], sockets[2], count = 100;
	size_t resident = 0;
	double started;

	for (int i = 1; i < argc; i++)
		if (i + 1 < argc && !strcmp(argv[i], "--count"))
			count = atoi(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--resident"))
			resident = (size_t)atoi(argv[++i]) << 20;
		else if (i + 1 < argc && cgroup_count < MOST_CGROUPS && !strcmp(argv[i], "--cgroup"))
			cgroups[cgroup_count++] = argv[++i];
		else
			place = argv[i];
	if (!place || *place != '/') {
		fprintf(stderr, "usage: limit [--count N] [--resident MB] [--cgroup DIRECTORY]... PLACE\n");
		return 2;
	}
	prepare();
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, words), "");
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), "");
	switch (fork()) {
	case -1:
		fail("fork", "starter");
	case 0:
		close(words[0]);
		close(sockets[0]);
		be_starter(words[1], sockets[1]);
	}
	close(words[1]);
	close(sockets[1]);
	dirty(resident);
	started = now();
	for (int number = 0; number < count; number++)
		make_sandbox(&entry, number, words[0], sockets[0]);
	printf("%.1f\n", (now() - started) / count);
	return 0;
}
