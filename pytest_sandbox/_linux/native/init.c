/* pid 1 of a sandbox: mounts what the controller lists, makes the sandboxes below, reaps, and has the last word.
 *
 * A program of a few pages without a library, so that a namespace costs no copy of Python. It does what its controller tells
 * it, over a socket of which nobody else has an end; the sandboxed processes can neither trace it nor signal it.
 *
 *     init MAIN                pid of main in our namespace; descriptor 3 is a SOCK_SEQPACKET socket, and 5, if we are to
 *                              make sandboxes, main's mount namespace
 *
 * Each packet begins with one letter. From the controller:
 *     b OPERATIONS             do them (see `operate`), in order, up to the first that fails
 *     c FLAGS MAPS + socket    clone a child into new namespaces, which listens to that socket
 *     s SIGNAL                 send main a signal
 * To the controller:
 *     r + descriptors          an operation's (see 'k')
 *     f ERRNO NUMBER           an operation of ours (counted from 0, over all packets), or a child (-1, -2, ...), failed
 *     n TEXT                   /proc/net/dev, as main left it
 *     l PID COMMAND            a process that main left behind
 *     x STATUS FIGURES         main has ended: wait status; of all we reaped: microseconds, blocks read and written, page
 *                              faults, and those of them that waited for a disk
 *
 * Numbers are of the machine's own byte order. Sources: clone3(2), mount(2), mount_setattr(2), pivot_root(2), pid_namespaces(7).
 */
#include <stddef.h>
#include <stdint.h>

/* No header of the machine is needed, so that a compiler that brings none will do. Names as in include/uapi of Linux. */
typedef long word;

enum {
	AT_FDCWD = -100, AT_RECURSIVE = 0x8000,
	O_WRONLY = 1, O_NONBLOCK = 04000, O_CLOEXEC = 02000000,
	ENOENT = 2, EINTR = 4, ECHILD = 10, EAGAIN = 11, ENOMEM = 12, EACCES = 13, ENOTDIR = 20, EINVAL = 22, EMFILE = 24,
	SIGCHLD = 17, SIGKILL = 9,
	AF_INET = 2, AF_INET6 = 10, AF_NETLINK = 16, SOCK_DGRAM = 2, SOCK_RAW = 3, NETLINK_ROUTE = 0, NETLINK_SOCK_DIAG = 4, NLMSG_ERROR = 2,
	SOL_SOCKET = 1, SCM_RIGHTS = 1, MSG_CMSG_CLOEXEC = 0x40000000, MSG_NOSIGNAL = 0x4000, MSG_TRUNC = 0x20,
	MS_BIND = 4096, MS_REC = 16384, MS_PRIVATE = 1 << 18, MS_RDONLY = 1, MS_NOSUID = 2, MS_NODEV = 4, MNT_DETACH = 2,
	WNOHANG = 1, POLLIN = 1, RUSAGE_CHILDREN = -1,
	GRACE_MS = 50, MOST_GRACES = 20, MOST_LEAKS = 100, LONGEST_LINE = 500, MOST_DESCRIPTORS = 8,
};

enum {
	AT_EMPTY_PATH = 0x1000, O_PATH = 010000000, OPEN_TREE_CLONE = 1, STATX_TYPE = 1,
	MOVE_MOUNT_F_EMPTY_PATH = 4, MOVE_MOUNT_T_EMPTY_PATH = 0x40,
	RESOLVE_NO_MAGICLINKS = 2, RESOLVE_NO_SYMLINKS = 4, RESOLVE_IN_ROOT = 0x10,
	CLONE_NEWNS = 0x20000, CLONE_NEWUSER = 0x10000000, CLONE_NEWPID = 0x20000000, CLONE_PARENT = 0x8000,
	MOUNT_ATTR_RDONLY = 1, SIOCSIFFLAGS = 0x8914, SIOCSIFADDR = 0x8916, CAPABILITY_VERSION_3 = 0x20080522, CAP_KILL = 5,
	PR_SET_DUMPABLE = 4, PR_SET_SECCOMP = 22, PR_CAPBSET_DROP = 24, PR_SET_NO_NEW_PRIVS = 38, PR_CAP_AMBIENT = 47,
	PR_CAP_AMBIENT_CLEAR_ALL = 4, SECCOMP_MODE_FILTER = 2,
};

struct mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
struct cap_header { uint32_t version; int pid; };
struct cap_data { uint32_t effective, permitted, inheritable; };
struct sock_filter { uint16_t code; uint8_t yes, no; uint32_t k; };
struct sock_fprog { uint16_t length; const struct sock_filter *filter; };

/* Where descriptors are kept, so that everything above can be closed. */
enum { CONTROL = 3, SIGNALS = 4, VIEW = 5 };

#if defined(__x86_64__)
#define AUDIT_ARCH 0xC000003EU
enum {
	__NR_read = 0, __NR_write = 1, __NR_close = 3, __NR_rt_sigprocmask = 14, __NR_ioctl = 16, __NR_socket = 41,
	__NR_sendmsg = 46, __NR_recvmsg = 47, __NR_wait4 = 61, __NR_kill = 62, __NR_chdir = 80, __NR_umask = 95,
	__NR_getrusage = 98, __NR_capset = 126, __NR_pivot_root = 155, __NR_prctl = 157, __NR_mount = 165,
	__NR_umount2 = 166, __NR_getdents64 = 217, __NR_exit_group = 231, __NR_openat = 257, __NR_mkdirat = 258,
	__NR_fchownat = 260, __NR_fchmodat = 268, __NR_ppoll = 271, __NR_unshare = 272, __NR_signalfd4 = 289,
	__NR_dup3 = 292, __NR_pipe2 = 293, __NR_setns = 308, __NR_statx = 332,
};

static word call(word number, word a, word b, word c, word d, word e, word f)
{
	register word r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	word result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#elif defined(__aarch64__)
#define AUDIT_ARCH 0xC00000B7U
enum {
	__NR_read = 63, __NR_write = 64, __NR_close = 57, __NR_rt_sigprocmask = 135, __NR_ioctl = 29, __NR_socket = 198,
	__NR_sendmsg = 211, __NR_recvmsg = 212, __NR_wait4 = 260, __NR_kill = 129, __NR_chdir = 49, __NR_umask = 166,
	__NR_getrusage = 165, __NR_capset = 91, __NR_pivot_root = 41, __NR_prctl = 167, __NR_mount = 40,
	__NR_umount2 = 39, __NR_getdents64 = 61, __NR_exit_group = 94, __NR_openat = 56, __NR_mkdirat = 34,
	__NR_fchownat = 54, __NR_fchmodat = 53, __NR_ppoll = 73, __NR_unshare = 97, __NR_signalfd4 = 74, __NR_dup3 = 24,
	__NR_pipe2 = 59, __NR_setns = 268, __NR_statx = 291,
};

static word call(word number, word a, word b, word c, word d, word e, word f)
{
	register word x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
		      x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x0, sp\n\tbl begin\n");
#else
#error "no system calls for this architecture yet"
#endif

enum { /* the same everywhere */
	__NR_open_tree = 428, __NR_move_mount = 429, __NR_clone3 = 435, __NR_close_range = 436, __NR_openat2 = 437,
	__NR_mount_setattr = 442,
};

#define CALL(number, a, b, c, d, e) call(number, (word)(a), (word)(b), (word)(c), (word)(d), (word)(e), 0)

/* The compiler may ask for these by itself. */
void *memset(void *to, int value, size_t length)
{
	for (char *at = to; length; length--)
		*at++ = (char)value;
	return to;
}

void *memcpy(void *to, const void *from, size_t length)
{
	char *at = to;

	for (const char *source = from; length; length--)
		*at++ = *source++;
	return to;
}

static size_t length_of(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	return length;
}

static char *append(char *to, const char *text)
{
	size_t length = length_of(text);

	memcpy(to, text, length + 1);
	return to + length;
}

static char *append_number(char *to, word number)
{
	char digits[24];
	int count = 0;

	do
		digits[count++] = (char)('0' + number % 10);
	while (number /= 10);
	while (count)
		*to++ = digits[--count];
	*to = 0;
	return to;
}

static word number_in(const char *text)
{
	word number = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + *text - '0';
	return number;
}

static int value_of(char digit)
{
	return digit <= '9' ? digit - '0' : digit - 'a' + 10;
}

/* ---- what travels ------------------------------------------------------------------------------------------------- */

struct vector { void *base; size_t length; };
struct message { void *name; int name_length; struct vector *vectors; size_t vector_count; void *control; size_t control_length; int flags; };
struct control_header { size_t length; int level, type; };

struct rights { struct control_header header; int descriptors[MOST_DESCRIPTORS]; };

static char buffer[1 << 18];
static word main_pid;
static int done, spoilt, children; /* operations so far, whether one has failed; clones so far */
static struct rights kept; /* descriptors for 'r' */
static int kept_count;

static _Noreturn void end(int code)
{
	for (;;)
		CALL(__NR_exit_group, code, 0, 0, 0, 0);
}

static void say(const void *packet, size_t length, struct rights *rights, int count)
{
	struct vector vector = {(void *)packet, length};
	struct message message = {.vectors = &vector, .vector_count = 1};
	word sent;

	if (count) {
		rights->header = (struct control_header){sizeof rights->header + sizeof(int) * (size_t)count, SOL_SOCKET, SCM_RIGHTS};
		message.control = rights;
		message.control_length = (rights->header.length + sizeof(word) - 1) & ~(sizeof(word) - 1);
	}
	do
		sent = CALL(__NR_sendmsg, CONTROL, &message, MSG_NOSIGNAL, 0, 0);
	while (sent == -EINTR);
	if (sent < 0)
		end(1); /* the controller is gone */
}

static void say_failed(word error, int number)
{
	char packet[9] = "f";
	int code = (int)-error;

	memcpy(packet + 1, &code, 4);
	memcpy(packet + 5, &number, 4);
	say(packet, sizeof packet, NULL, 0);
}

static word read_file(const char *path, char *to, size_t size)
{
	word fd = CALL(__NR_openat, AT_FDCWD, path, O_CLOEXEC, 0, 0), length = 0, got;

	if (fd < 0)
		return fd;
	while (size && (got = CALL(__NR_read, fd, to + length, size, 0, 0)) > 0)
		length += got, size -= (size_t)got;
	CALL(__NR_close, fd, 0, 0, 0, 0);
	return length;
}

static word write_file(const char *path, const char *text)
{
	word fd = CALL(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0, 0), written;

	if (fd < 0)
		return fd;
	written = CALL(__NR_write, fd, text, length_of(text), 0, 0);
	CALL(__NR_close, fd, 0, 0, 0, 0);
	return written < 0 ? written : 0;
}

/* Have main's pid follow `last`, where the kernel has that file, ns_last_pid (CONFIG_CHECKPOINT_RESTORE), and lets us write to it. */
static word number_pids(const char *path, const char *last)
{
	if (!write_file(path, last))
		main_pid = number_in(last) + 2; /* after forker's */
	return 0;
}

/* ---- operations --------------------------------------------------------------------------------------------------- */

static word mount(const char *source, const char *target, const char *type, word flags, const char *data)
{
	return CALL(__NR_mount, *source ? source : NULL, target, *type ? type : NULL, flags, *data ? data : NULL);
}

static word make_directory(const char *path, const int *numbers)
{
	word error = CALL(__NR_mkdirat, AT_FDCWD, path, 0777, 0, 0);

	if (!error && (numbers[1] != -1 || numbers[2] != -1))
		error = CALL(__NR_fchownat, AT_FDCWD, path, numbers[1], numbers[2], 0);
	return error ? error : CALL(__NR_fchmodat, AT_FDCWD, path, numbers[0], 0, 0);
}

static word make_read_only(const char *path, word recursive)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};

	return CALL(__NR_mount_setattr, AT_FDCWD, path, recursive ? AT_RECURSIVE : 0, &attr, sizeof attr);
}

/* Cover a directory by an empty one, and a file by what is at `nothing`; what is not there, or not for us, needs no cover. */
static word hide(const char *path, const char *nothing)
{
	word error = mount("hidden", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=555");

	if (error == -ENOTDIR)
		error = mount(nothing, path, "", MS_BIND, "");
	return error == -ENOENT || error == -EACCES ? 0 : error;
}

/* Open a path that a sandbox has a say in: no link in it leads anywhere, and ".." not out of `root`. */
static word open_plainly(word root, const char *path, word resolve)
{
	struct { uint64_t flags, mode, resolve; } how = {O_PATH | O_CLOEXEC, 0, (uint64_t)resolve};

	return CALL(__NR_openat2, root, path, &how, sizeof how, 0);
}

static int is_socket(word fd)
{
	uint16_t status[128] = {0}; /* struct statx: stx_mode is its 14th pair of bytes */

	return !CALL(__NR_statx, fd, "", AT_EMPTY_PATH, STATX_TYPE, status) && (status[14] & 0170000) == 0140000;
}

/* Show the socket at `path`, where a scope around us listens, below the new root too; what is in the way of that prevents it. */
static void bind_socket(const char *path, const char *new_root)
{
	word root = CALL(__NR_openat, AT_FDCWD, new_root, O_PATH | O_CLOEXEC, 0, 0);
	word source = open_plainly(AT_FDCWD, path, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
	word target = open_plainly(root, path, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_IN_ROOT);
	word tree = -1;

	if (source >= 0 && target >= 0 && is_socket(source) && is_socket(target))
		tree = CALL(__NR_open_tree, source, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | O_CLOEXEC, 0, 0);
	if (tree >= 0)
		CALL(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	CALL(__NR_close, tree, 0, 0, 0, 0);
	CALL(__NR_close, target, 0, 0, 0, 0);
	CALL(__NR_close, source, 0, 0, 0, 0);
	CALL(__NR_close, root, 0, 0, 0, 0);
}

static word enter_root(const char *path)
{
	word error = CALL(__NR_chdir, path, 0, 0, 0, 0);

	if (!error)
		error = CALL(__NR_pivot_root, ".", ".", 0, 0, 0);
	if (!error)
		error = CALL(__NR_umount2, ".", MNT_DETACH, 0, 0, 0);
	return error ? error : CALL(__NR_chdir, "/", 0, 0, 0, 0);
}

/* 127.0.0.2 and fe80::1: for getaddrinfo(3) with AI_ADDRCONFIG a machine that has 127.0.0.1 and ::1 alone has no address at all.
 * Where there is no IPv6 there is none to be had. */
static void add_addresses(word fd)
{
	struct { char name[16]; uint16_t family, port; uint8_t address[4]; char rest[16]; } of_4 = {"lo:2", AF_INET, 0, {127, 0, 0, 2}, ""};
	struct { uint8_t address[16]; uint32_t prefix; int index; } of_6 = {{0xfe, 0x80, [15] = 1}, 64, 1};

	CALL(__NR_ioctl, fd, SIOCSIFADDR, &of_4, 0, 0);
	fd = CALL(__NR_socket, AF_INET6, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0);
	if (fd < 0)
		return;
	CALL(__NR_ioctl, fd, SIOCSIFADDR, &of_6, 0, 0);
	CALL(__NR_close, fd, 0, 0, 0, 0);
}

static word raise_loopback(void)
{
	struct { char name[16]; short flags; char rest[22]; } request = {"lo", 0x41, ""}; /* IFF_UP | IFF_RUNNING */
	word error, fd = CALL(__NR_socket, AF_INET, SOCK_DGRAM | O_CLOEXEC, 0, 0, 0);

	if (fd < 0)
		return fd;
	error = CALL(__NR_ioctl, fd, SIOCSIFFLAGS, &request, 0, 0);
	if (!error)
		add_addresses(fd);
	CALL(__NR_close, fd, 0, 0, 0, 0);
	return error;
}

/* Send the routing message that `digits` spell, two hexadecimal ones a byte, and wait for its acknowledgement: netlink(7). */
static word route(const char *digits)
{
	struct { uint32_t length; uint16_t type, flags; uint32_t sequence, port; int error; char rest[1 << 10]; } answer;
	char message[1 << 10];
	size_t size = 0;
	word error, fd = CALL(__NR_socket, AF_NETLINK, SOCK_RAW | O_CLOEXEC, NETLINK_ROUTE, 0, 0);

	if (fd < 0)
		return fd;
	for (; digits[0] && digits[1] && size < sizeof message; digits += 2)
		message[size++] = (char)(value_of(digits[0]) << 4 | value_of(digits[1]));
	error = CALL(__NR_write, fd, message, size, 0, 0);
	if (error >= 0)
		error = CALL(__NR_read, fd, &answer, sizeof answer, 0, 0);
	if (error >= 0)
		error = answer.type == NLMSG_ERROR ? answer.error : -EINVAL;
	CALL(__NR_close, fd, 0, 0, 0, 0);
	return error;
}

static word keep(word fd)
{
	if (fd < 0)
		return fd;
	if (kept_count == MOST_DESCRIPTORS)
		return -EINVAL;
	kept.descriptors[kept_count++] = (int)fd;
	return 0;
}

static word keep_open(const char *path)
{
	return keep(CALL(__NR_openat, AT_FDCWD, path, O_CLOEXEC, 0, 0));
}

/* Give everybody but us a mount namespace without what is mounted at `path`; ours stays as it is. */
static word keep_view(const char *path)
{
	word error, own = CALL(__NR_openat, AT_FDCWD, "/proc/self/ns/mnt", O_CLOEXEC, 0, 0);

	if (own < 0)
		return own;
	error = CALL(__NR_unshare, CLONE_NEWNS, 0, 0, 0, 0);
	if (!error)
		error = CALL(__NR_umount2, path, MNT_DETACH, 0, 0, 0);
	if (!error)
		error = keep_open("/proc/self/ns/mnt");
	if (!error)
		CALL(__NR_dup3, kept.descriptors[kept_count - 1], VIEW, O_CLOEXEC, 0, 0);
	if (!error)
		error = CALL(__NR_setns, own, CLONE_NEWNS, 0, 0, 0);
	CALL(__NR_close, own, 0, 0, 0, 0);
	return error;
}

static word send_kept(void)
{
	say("r", 1, &kept, kept_count);
	for (int i = 0; i < kept_count; i++)
		CALL(__NR_close, kept.descriptors[i], 0, 0, 0, 0);
	kept_count = 0;
	return 0;
}

static word give_up(unsigned last_capability)
{
	struct cap_header header = {CAPABILITY_VERSION_3, 0};
	struct cap_data kill[2] = {{1 << CAP_KILL, 1 << CAP_KILL, 0}, {0, 0, 0}}; /* of a main that has become another user */

	for (unsigned capability = 0; capability <= last_capability; capability++)
		CALL(__NR_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
	CALL(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	return CALL(__NR_capset, &header, kill, 0, 0, 0);
}

/* Returns 0, or an error's negative number. */
static word operate(char code, const int *numbers, char *const *texts)
{
	switch (code) {
	case 'm': return mount(texts[0], texts[1], texts[2], numbers[0], texts[3]);
	case 'b': bind_socket(texts[0], texts[1]); return 0;
	case 'd': return make_directory(texts[0], numbers);
	case 'r': return make_read_only(texts[0], numbers[0]);
	case 'w': return write_file(texts[0], texts[1]);
	case 'i': return number_pids(texts[0], texts[1]);
	case 'h': return hide(texts[0], texts[1]);
	case 'e': return enter_root(texts[0]);
	case 'p': return mount("", "/", "", MS_REC | MS_PRIVATE, "");
	case 'l': return raise_loopback();
	case 'q': return route(texts[0]);
	case 'v': return keep_view(texts[0]);
	case 'o': return keep_open(texts[0]);
	case 'n': return keep(CALL(__NR_socket, AF_NETLINK, SOCK_RAW | O_CLOEXEC, NETLINK_SOCK_DIAG, 0, 0));
	case 'k': return send_kept();
	case 'g': return give_up((unsigned)numbers[0]);
	}
	return -EINVAL;
}

/* The operation at `at`, of `size` bytes: a letter, three numbers, and exactly four texts. */
static word do_one(char *at, size_t size)
{
	int numbers[3];
	char *texts[4], *const stop = at + size;
	char code = *at;

	if (size < 1 + sizeof numbers)
		return -EINVAL;
	memcpy(numbers, at + 1, sizeof numbers);
	at += 1 + sizeof numbers;
	for (int i = 0; i < 4; i++) {
		texts[i] = at;
		while (at < stop && *at)
			at++;
		if (at++ >= stop)
			return -EINVAL;
	}
	return at == stop ? operate(code, numbers, texts) : -EINVAL;
}

/* Each operation follows its length. After one that failed nothing more is done: the sandbox is not what it was to be. */
static void do_all(char *at, const char *stop)
{
	while (!spoilt && at < stop) {
		unsigned size = 0;
		word error = -EINVAL;

		if (stop - at > (long)sizeof size) {
			memcpy(&size, at, sizeof size);
			at += sizeof size;
			if (size && size <= (size_t)(stop - at))
				error = do_one(at, size);
		}
		if (error) {
			spoilt = 1;
			say_failed(error, done);
		}
		at += size;
		done++;
	}
}

/* ---- children ----------------------------------------------------------------------------------------------------- */

static word write_map(word pid, const char *name, const char *text)
{
	char path[64];
	char *end_of = append_number(append(path, "/proc/"), pid);

	append(append(end_of, "/"), name);
	return *text ? write_file(path, text) : 0;
}

static word write_maps(word pid, const char *const *texts)
{
	word error = write_map(pid, "setgroups", texts[0]);

	if (!error)
		error = write_map(pid, "uid_map", texts[1]);
	return error ? error : write_map(pid, "gid_map", texts[2]);
}

/* A new pid 1, in namespaces of its own: forget whose copy it is. */
static void begin_anew(int control)
{
	CALL(__NR_dup3, control, CONTROL, O_CLOEXEC, 0, 0);
	CALL(__NR_close_range, SIGNALS + 1, ~0U, 0, 0, 0);
	CALL(__NR_dup3, CONTROL, VIEW, O_CLOEXEC, 0, 0); /* so that nothing else gets the number */
	done = spoilt = children = 0;
	main_pid = 3; /* `enter.c`: forker is 2 */
}

/* Returns 0 in the child; in the parent an error, or 1. */
static word clone_mapped(struct clone_args *args, const char *const *texts)
{
	int mapped[2];
	char byte;
	word pid, error = CALL(__NR_pipe2, mapped, O_CLOEXEC, 0, 0, 0);

	if (error)
		return error;
	pid = CALL(__NR_clone3, args, sizeof *args, 0, 0, 0);
	if (pid == 0) {
		CALL(__NR_close, mapped[1], 0, 0, 0, 0);
		if (CALL(__NR_read, mapped[0], &byte, 1, 0, 0) != 1)
			end(1);
		return 0;
	}
	error = pid < 0 ? pid : write_maps(pid, texts);
	if (!error)
		CALL(__NR_write, mapped[1], "x", 1, 0, 0);
	CALL(__NR_close, mapped[0], 0, 0, 0, 0);
	CALL(__NR_close, mapped[1], 0, 0, 0, 0);
	return error ? error : 1;
}

/* A process that others may trace, and so use as their own; it could do nothing but what it does here. */
static _Noreturn void hold(void)
{
	static const struct sock_filter filter[] = {
		{0x20, 0, 0, 4}, {0x15, 0, 4, AUDIT_ARCH}, /* is it of this architecture? */
		{0x20, 0, 0, 0}, {0x15, 1, 0, __NR_prctl}, {0x15, 0, 1, __NR_ppoll},
		{0x06, 0, 0, 0x7FFF0000U}, {0x06, 0, 0, 0x80000000U}, /* SECCOMP_RET_ALLOW, _KILL_PROCESS */
	};
	struct sock_fprog program = {sizeof filter / sizeof *filter, filter};

	CALL(__NR_close_range, 0, ~0U, 0, 0, 0);
	if (CALL(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || CALL(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0))
		end(1);
	CALL(__NR_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
	for (;;)
		CALL(__NR_ppoll, NULL, 0, NULL, NULL, 0);
}

/*
 * A user namespace that an ordinary user has mapped himself into, as a descriptor.
 *
 * The files of /proc of what may not be dumped belong to root, and so its maps cannot be written by a user; but what may be
 * dumped is open to main, which owns the namespace. So somebody else is mapped, who has nothing but main's own view, and can
 * make no system call that is of use to anybody.
 */
static word hold_user_namespace(const char *const *texts)
{
	struct clone_args args = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
	struct { word seconds, nanos; } moment = {0, 100000};
	char path[64];
	word pid, error, back, own = CALL(__NR_openat, AT_FDCWD, "/proc/self/ns/mnt", O_CLOEXEC, 0, 0);

	if (own < 0)
		return own;
	error = CALL(__NR_setns, VIEW, CLONE_NEWNS, 0, 0, 0);
	pid = error ? error : CALL(__NR_clone3, &args, sizeof args, 0, 0, 0);
	if (pid == 0)
		hold();
	back = CALL(__NR_setns, own, CLONE_NEWNS, 0, 0, 0);
	CALL(__NR_close, own, 0, 0, 0, 0);
	if (back)
		end(1);
	if (pid < 0)
		return pid;
	/* Until it may be dumped: on a machine that is busy with somebody's bomb it may take seconds to get its turn. */
	for (int tries = 0; (error = write_maps(pid, texts)) == -EACCES && tries < 600000; tries++) {
		if (CALL(__NR_wait4, pid, NULL, WNOHANG, NULL, 0) == pid) /* never, but for want of memory */
			return -ENOMEM;
		CALL(__NR_ppoll, NULL, 0, &moment, NULL, 8);
	}
	append(append_number(append(path, "/proc/"), pid), "/ns/user");
	if (!error)
		error = CALL(__NR_openat, AT_FDCWD, path, O_CLOEXEC, 0, 0);
	CALL(__NR_kill, pid, SIGKILL, 0, 0, 0);
	CALL(__NR_wait4, pid, NULL, 0, NULL, 0);
	return error;
}

/* As `clone_mapped`, into a user namespace that is there: by a process that enters it and makes our child. */
static word clone_into(struct clone_args *args, const char *const *texts)
{
	struct clone_args plain = {.exit_signal = SIGCHLD};
	word pid, userns = hold_user_namespace(texts);
	int status = 0;

	if (userns < 0)
		return userns;
	/* CLONE_NEWPID with CLONE_PARENT is EINVAL, hence the unshare. */
	args->flags = (args->flags & ~(uint64_t)(CLONE_NEWUSER | CLONE_NEWPID)) | CLONE_PARENT;
	args->exit_signal = 0; /* that of whoever calls: SIGCHLD */
	pid = CALL(__NR_clone3, &plain, sizeof plain, 0, 0, 0);
	if (pid == 0) {
		word error = CALL(__NR_setns, userns, CLONE_NEWUSER, 0, 0, 0);

		if (!error)
			error = CALL(__NR_unshare, CLONE_NEWPID, 0, 0, 0, 0);
		if (!error)
			error = CALL(__NR_clone3, args, sizeof *args, 0, 0, 0);
		if (error == 0)
			return 0; /* the new pid 1 */
		end(error > 0 ? 0 : (int)-error);
	}
	CALL(__NR_close, userns, 0, 0, 0, 0);
	if (pid < 0)
		return pid;
	CALL(__NR_wait4, pid, &status, 0, NULL, 0);
	if (!status)
		return 1;
	return status >> 8 & 0xff ? -(status >> 8 & 0xff) : -ECHILD; /* somebody has killed it: 0 would be the new pid 1 */
}

/* FLAGS is followed by three texts: for setgroups (of a user who maps himself), uid_map and gid_map. */
static void make_child(char *at, int control)
{
	struct clone_args args = {.exit_signal = SIGCHLD};
	const char *texts[3];
	word result;

	children++;
	memcpy(&args.flags, at, 8);
	at += 8;
	for (int i = 0; i < 3; i++) {
		texts[i] = at;
		at += length_of(at) + 1;
	}
	result = *texts[0] ? clone_into(&args, texts) : clone_mapped(&args, texts);
	if (result == 0)
		begin_anew(control);
	else if (result < 0)
		say_failed(result, -children);
}

/* ---- the end ------------------------------------------------------------------------------------------------------ */

struct usage { word user_seconds, user_micros, system_seconds, system_micros, figures[14]; };

/* Reap all that has ended; -ECHILD where nobody is left. */
static word reap(int *status, int *ended)
{
	word pid;
	int code;

	while ((pid = CALL(__NR_wait4, -1, &code, WNOHANG, NULL, 0)) > 0)
		if (pid == main_pid)
			*status = code, *ended = 1;
	return pid;
}

static void drain_signals(void)
{
	char info[128];

	while (CALL(__NR_read, SIGNALS, info, sizeof info, 0, 0) > 0)
		;
}

struct entry { uint64_t inode, offset; unsigned short length; unsigned char type; char name[]; };

static word read_of(const char *pid, const char *file, char *into, word size)
{
	char path[64];

	append(append(append(path, "/proc/"), pid), file);
	return read_file(path, into, size);
}

/*
 * Whether a process is in a pid namespace below ours, as those of a sandbox below are: that is not what main left, but may be what it
 * leaves behind where it dies. NSpid of proc_pid_status(5) has a number for each namespace from that of /proc, ours, down to its own.
 */
static int is_below(const char *pid)
{
	static const char name[] = "\nNSpid:";
	word length = read_of(pid, "/status", buffer, sizeof buffer - 1);
	int matched = 0, numbers = 0;

	for (word at = 0; at < length; at++)
		if (name[matched])
			matched = buffer[at] == name[matched] ? matched + 1 : buffer[at] == name[0];
		else if (buffer[at] == '\n')
			break;
		else
			numbers += buffer[at] == '\t';
	return numbers > 1;
}

/*
 * Call `look` with the pid of each of those that are left, but for ourselves: everybody in /proc is of our namespace. An error where
 * that cannot be opened: main is of the same user, and may have taken our descriptors away by prlimit(2).
 */
static word for_each_left(void (*look)(const char *pid, void *found), void *found)
{
	static char entries[1 << 15];
	word got, fd = CALL(__NR_openat, AT_FDCWD, "/proc", O_CLOEXEC, 0, 0);
	int count = 0;

	while (fd >= 0 && (got = CALL(__NR_getdents64, fd, entries, sizeof entries, 0, 0)) > 0)
		for (char *at = entries; at < entries + got; at += ((struct entry *)at)->length) {
			const char *name = ((struct entry *)at)->name;

			if (number_in(name) > 1 && !is_below(name) && count++ < MOST_LEAKS)
				look(name, found);
		}
	if (fd >= 0)
		CALL(__NR_close, fd, 0, 0, 0, 0);
	return fd < 0 ? fd : 0;
}

/* Whether one of them wants a CPU, and what they have run so far, in nanoseconds: /proc/PID/schedstat, where the kernel has it. */
struct activity { int runs; uint64_t ran; };

/* Who wants a CPU, by its state in proc_pid_stat(5), may be ending, and only want for one. */
static void look_at(const char *pid, void *found)
{
	struct activity *activity = found;
	word at = read_of(pid, "/schedstat", buffer, LONGEST_LINE);

	if (at > 0) {
		buffer[at] = 0;
		activity->ran += (uint64_t)number_in(buffer);
	}
	at = read_of(pid, "/stat", buffer, LONGEST_LINE);
	while (--at > 0 && buffer[at] != ')') /* its name may have parentheses */
		;
	if (at > 0)
		activity->runs |= buffer[at + 2] == 'R' || buffer[at + 2] == 'D';
}

/* Say that this pid was left; the command line stands in the buffer already. */
static void say_left(int pid, word length)
{
	buffer[0] = 'l';
	memcpy(buffer + 1, &pid, 4);
	say(buffer, 5 + (size_t)(length < 0 ? 0 : length), NULL, 0);
}

static void tell(const char *name, void *nothing)
{
	word length;

	(void)nothing;
	length = read_of(name, "/cmdline", buffer + 5, LONGEST_LINE);
	if (length <= 0) { /* a zombie, or one that wrote over its own command line */
		length = read_of(name, "/comm", buffer + 6, LONGEST_LINE);
		buffer[5] = '[';
		if (length > 0)
			buffer[5 + length++] = ']'; /* in the place of the newline */
	}
	say_left((int)number_in(name), length);
}

static _Noreturn void have_last_word(int status)
{
	static const char unread[] = "[who is left cannot be read]";
	struct { int descriptor; short events, returned; } wait = {SIGNALS, POLLIN, 0};
	struct { word seconds, nanos; } grace = {0, GRACE_MS * 1000000L};
	struct usage usage = {0};
	char packet[45] = "x";
	uint64_t figures[5];
	word length;
	int ended, graces = 0;
	uint64_t before = 0;

	while (reap(&status, &ended) != -ECHILD) {
		if (!graces || !grace.nanos) {
			struct activity now = {0, 0};

			for_each_left(look_at, &now);
			/* Who runs, and gets a CPU for half of the time, has had what it takes to end. */
			if (graces && (graces == MOST_GRACES || !now.runs || (int64_t)(now.ran - before) > GRACE_MS * 500000L)) {
				if (for_each_left(tell, NULL))
					memcpy(buffer + 5, unread, sizeof unread - 1), say_left(0, sizeof unread - 1);
				break;
			}
			before = now.ran;
			grace.nanos = GRACE_MS * 1000000L;
			graces++;
		}
		/* What is just ending may do so, however many they are: ppoll(2) leaves in `grace` what there is left of it. */
		drain_signals();
		if (CALL(__NR_ppoll, &wait, 1, &grace, NULL, 8) <= 0)
			grace.nanos = 0;
	}
	CALL(__NR_getrusage, RUSAGE_CHILDREN, &usage, 0, 0, 0);
	length = read_file("/proc/net/dev", buffer + 1, sizeof buffer - 1);
	buffer[0] = 'n';
	say(buffer, 1 + (size_t)(length < 0 ? 0 : length), NULL, 0);
	figures[0] = (uint64_t)((usage.user_seconds + usage.system_seconds) * 1000000 + usage.user_micros + usage.system_micros);
	figures[1] = (uint64_t)usage.figures[7]; /* ru_inblock */
	figures[2] = (uint64_t)usage.figures[8]; /* ru_oublock */
	figures[3] = (uint64_t)usage.figures[4]; /* ru_minflt */
	figures[4] = (uint64_t)usage.figures[5]; /* ru_majflt */
	memcpy(packet + 1, &status, 4);
	memcpy(packet + 5, figures, sizeof figures);
	say(packet, sizeof packet, NULL, 0);
	end(0);
}

/* ---- the loop ----------------------------------------------------------------------------------------------------- */

static void hear(void)
{
	struct vector vector = {buffer, sizeof buffer - 1};
	struct rights rights;
	struct message message = {.vectors = &vector, .vector_count = 1, .control = &rights, .control_length = sizeof rights};
	word length = CALL(__NR_recvmsg, CONTROL, &message, MSG_CMSG_CLOEXEC, 0, 0);
	int signal;

	if (length == -EINTR || length == -EAGAIN)
		return;
	if (length <= 0 || message.flags & MSG_TRUNC)
		end(1); /* the controller is gone, or says more than anybody would */
	buffer[length] = 0;
	switch (buffer[0]) {
	case 'b':
		do_all(buffer + 1, buffer + length);
		break;
	case 'c':
		if (message.control_length <= sizeof rights.header) { /* no room for a descriptor */
			say_failed(-EMFILE, -++children);
			break;
		}
		make_child(buffer + 1, rights.descriptors[0]);
		/* The child's, which has put it elsewhere. */
		CALL(__NR_close, rights.descriptors[0], 0, 0, 0, 0);
		break;
	case 's':
		memcpy(&signal, buffer + 1, 4);
		CALL(__NR_kill, main_pid, signal, 0, 0, 0);
		break;
	}
}

_Noreturn void begin(const word *stack)
{
	const char *const *arguments = (const char *const *)(stack + 1);
	uint64_t child_signal = 1UL << (SIGCHLD - 1), all = ~0UL;
	struct { int descriptor; short events, returned; } wait[2] = {{CONTROL, POLLIN, 0}, {SIGNALS, POLLIN, 0}};
	int status = 0, ended = 0;
	word signals;

	if (stack[0] != 2)
		end(2);
	main_pid = number_in(arguments[1]);
	CALL(__NR_close_range, SIGNALS, SIGNALS, 0, 0, 0);
	CALL(__NR_close_range, VIEW + 1, ~0U, 0, 0, 0);
	CALL(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	CALL(__NR_rt_sigprocmask, 2, &all, NULL, 8, 0);
	CALL(__NR_umask, 0, 0, 0, 0, 0);
	signals = CALL(__NR_signalfd4, -1, &child_signal, 8, O_CLOEXEC | O_NONBLOCK, 0);
	if (signals != SIGNALS) /* a lower number was free: nobody promised us a stdin */
		CALL(__NR_dup3, signals, SIGNALS, O_CLOEXEC, 0, 0), CALL(__NR_close, signals, 0, 0, 0, 0);
	for (;;) {
		drain_signals();
		reap(&status, &ended);
		if (ended)
			have_last_word(status);
		CALL(__NR_ppoll, wait, 2, NULL, NULL, 8);
		if (wait[0].returned)
			hear();
	}
}
