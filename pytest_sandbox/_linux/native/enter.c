/* Fork the calling thread into namespaces that are there already, in one fork of its memory.
 *
 * A pid namespace can only be entered by a child (setns(2)), and a user namespace only by a process of one thread. To fork
 * twice would copy the page tables of a large Python twice. So two short-lived processes share the caller's memory
 * (CLONE_VM) while its thread waits here:
 *
 *     caller                   blocked in wait4 until both helpers have ended
 *     +- joiner  CLONE_VM      enters namespaces, and puts right what a fork inherits: descriptors, limits
 *     +- forker  CLONE_VM      made by joiner, the first in the pid namespace: calls fork(3), which copies the memory once
 *        +- main               jumps onto the caller's stack, enters cgroups, gives up privileges, says so, waits for its
 *                              word to go, and returns from sandbox_enter() with 0
 *
 * forker ends at once, and main is adopted by pid 1 of its namespace. The callers' thread-local storage is used by whoever of
 * the three runs, one at a time. forker holds locks of the C library in fork(3), in memory that is the caller's too: who killed
 * it there, as whoever kills its namespace would, would leave them locked. So main says that it is in only when forker has
 * ended, and the controller kills nothing before that. Sources: clone(2), setns(2), capabilities(7), rseq(2), pthread_atfork(3),
 * PR_SET_PDEATHSIG(2const).
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE /* its longjmp refuses a jump to another stack */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum step {
	STEP_CLONE = 1, STEP_SETNS, STEP_DESCRIPTORS, STEP_LIMITS, STEP_FORK,
};
enum { MOST_FILES = 8, JOIN_SESSION_KEYRING = 1 };

/* As `__init__.py` lays it out. Everything that the helpers need is here, since they may not touch Python's own memory. */
struct entry {
	const int *cgroups; /* descriptors of version 1's `tasks` */
	size_t cgroup_count;
	const int *namespaces; /* the user namespace first */
	size_t namespace_count;
	const int *own, *given; /* the caller's files, and those that main has in their stead; the first is a socket */
	size_t file_count;
	const char *greeting; /* what main says on that socket when it is in; a byte in answer is its word to go */
	size_t greeting_length;
	int asks; /* whether main says so before too, and waits for a byte: it is to be put into cgroups by somebody else */
	const char *directory; /* where main starts, if it is there */
	const struct limit { int resource; uint64_t soft, hard; } *limits;
	size_t limit_count;
	uint64_t capabilities; /* what main keeps */
	uint32_t last_capability;
	void (*before)(void), (*in_parent)(void), (*in_child)(void); /* Python's part of os.fork() */
	int step, error; /* what failed, and its errno */
	int directories; /* how many descriptors of main's are directories of the caller's view of the machine */
};

struct state {
	struct entry *entry;
	volatile int forked;
	volatile pid_t forker;
	jmp_buf caller;
	/* The second is for other libraries' pthread_atfork(3) handlers too. */
	_Alignas(16) char joiner_stack[32 << 10], forker_stack[256 << 10];
};

static int fail(struct entry *entry, enum step step)
{
	entry->error = errno;
	entry->step = step;
	return 1;
}

static int give_up(const struct entry *entry)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	uint32_t low = (uint32_t)entry->capabilities, high = (uint32_t)(entry->capabilities >> 32);
	struct __user_cap_data_struct data[2] = {{low, low, 0}, {high, high, 0}};

	for (uint32_t capability = 0; capability <= entry->last_capability; capability++)
		if (!(entry->capabilities >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
			return -1;
	if (syscall(SYS_capset, &header, data) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* joining took it, from the caller too */
}

static int number_in(const char *text)
{
	int number = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		number = number * 10 + *text - '0';
	return *text ? -1 : number; /* "." and ".." */
}

/* Let a descriptor that leads to one of the caller's files lead to main's in its stead; count directories. */
static int look_at(struct entry *entry, const struct stat *own, int fd)
{
	struct stat found;

	if (fstat(fd, &found))
		return 0;
	entry->directories += S_ISDIR(found.st_mode);
	for (size_t i = 0; i < entry->file_count; i++)
		if (found.st_ino == own[i].st_ino && found.st_dev == own[i].st_dev)
			return dup3(entry->given[i], fd, fcntl(fd, F_GETFD) & FD_CLOEXEC ? O_CLOEXEC : 0);
	return 0;
}

/* The same numbers lead to main's own files, for whoever has them: Python objects, a duplicate that a fixture made. */
static int exchange(struct entry *entry)
{
	char entries[4096];
	struct stat own[MOST_FILES];
	long length;
	int list = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (list < 0)
		return -1;
	for (size_t i = 0; i < entry->file_count; i++)
		if (fstat(entry->own[i], &own[i]))
			return -1;
	while ((length = syscall(SYS_getdents64, list, entries, sizeof entries)) > 0)
		for (char *at = entries; at < entries + length; at += ((struct dirent64 *)at)->d_reclen) {
			int fd = number_in(((struct dirent64 *)at)->d_name);

			if (fd >= 0 && fd != list && look_at(entry, own, fd) < 0)
				return -1;
		}
	close(list);
	for (size_t i = 0; i < entry->file_count; i++)
		close(entry->given[i]);
	return length < 0 ? -1 : 0;
}

static int limit(const struct limit *limit)
{
	struct rlimit now, wanted;

	if (getrlimit(limit->resource, &now))
		return -1;
	wanted.rlim_cur = limit->soft < now.rlim_max ? limit->soft : now.rlim_max; /* RLIM_INFINITY is the greatest */
	wanted.rlim_max = limit->hard < now.rlim_max ? limit->hard : now.rlim_max;
	return setrlimit(limit->resource, &wanted);
}

static int forker(void *argument)
{
	struct state *state = argument;
	pid_t pid = fork();

	if (pid == 0)
		longjmp(state->caller, 1);
	if (pid < 0)
		return fail(state->entry, STEP_FORK);
	state->forked = 1;
	return 0;
}

static int greet(const struct entry *entry)
{
	return write(entry->own[0], entry->greeting, entry->greeting_length) != (ssize_t)entry->greeting_length;
}

/* Wait until forker, which is main's parent, has ended, and pid 1 is that. All signals are blocked. */
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
	/* kill(0, ...) and the terminal's signals end at the sandbox's border. Takes tasklist_lock, which who ends holds from the
	 * moment when we get another parent until the signal is sent (exit_notify): no such signal comes later. */
	setsid();
	sigtimedwait(&end, NULL, &at_once); /* it had ended after the first prctl, and before we looked */
}

/* Until the caller has reaped forker, whoever lists processes finds that: a caller on a busy machine takes a while. Not for
 * ever, since it is ended and does nothing. */
static void be_alone(void)
{
	struct timespec moment = {0, 100000};

	for (int i = 0; i < 20000 && !kill(getpid() - 1, 0); i++) /* the namespace's first pids are given one after the other */
		nanosleep(&moment, NULL);
}

/* Main's first steps. What goes wrong is in its stderr. */
static void settle(const struct entry *entry)
{
	const char *what = "write to the controller";
	int failed = 0;
	char answer;

	outlive_forker();
	/* Main, and none of the helpers: they share the caller's memory, and would take it along if they were killed in there. */
	if (entry->asks) {
		failed = greet(entry);
		if (!failed && read(entry->own[0], &answer, 1) != 1)
			_exit(1); /* the controller has thought better of it, or is gone */
	}
	if (!failed)
		what = "write to a cgroup's tasks";
	for (size_t i = 0; i < entry->cgroup_count && !failed; i++)
		failed = write(entry->cgroups[i], "0", 1) != 1 || close(entry->cgroups[i]);
	if (!failed) {
		what = "unshare a cgroup namespace";
		failed = unshare(CLONE_NEWCGROUP); /* which begins at the cgroup that it is in now */
	}
	if (!failed) {
		what = "drop privileges";
		failed = give_up(entry);
	}
	if (!failed) {
		what = "write to the controller";
		failed = greet(entry);
	}
	if (failed) {
		dprintf(entry->own[2], "pytest-sandbox: %s: %s\n", what, strerror(errno));
		_exit(1);
	}
}

static int joiner(void *argument)
{
	struct state *state = argument;
	struct entry *entry = state->entry;

	if (exchange(entry))
		return fail(entry, STEP_DESCRIPTORS);
	for (size_t i = 0; i < entry->namespace_count; i++)
		if (setns(entry->namespaces[i], 0) || close(entry->namespaces[i]))
			return fail(entry, STEP_SETNS);
	if (chdir(entry->directory))
		errno = 0; /* it is hidden inside: main starts in "/", where setns(2) has put us */
	/* No namespace hides a session keyring (keyrings(7)). A filter may keep keyctl(2) from everybody in here. */
	syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL);
	for (size_t i = 0; i < entry->limit_count; i++)
		if (limit(&entry->limits[i]))
			return fail(entry, STEP_LIMITS);
	/* The caller's child too (CLONE_PARENT): it waits for both, whatever becomes of this one. */
	if (clone(forker, state->forker_stack + sizeof state->forker_stack, CLONE_VM | CLONE_PARENT | CLONE_PARENT_SETTID, state,
		  &state->forker) < 0)
		return fail(entry, STEP_FORK);
	return 0;
}

/* RSEQ_SIG of glibc's <sys/rseq.h>, which older ones do not have. */
#ifdef __aarch64__
#define RSEQ_SIGNATURE 0xd428bc00
#else
#define RSEQ_SIGNATURE 0x53053053
#endif

/* The kernel forgets the area of who shares memory (rseq_fork), and fork(3) takes for granted that it is still known. */
static void register_rseq(void)
{
	extern const ptrdiff_t __rseq_offset __attribute__((weak));
	extern const unsigned int __rseq_size __attribute__((weak));

	if (&__rseq_size && __rseq_size)
		syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 0, RSEQ_SIGNATURE);
}

/* The pid of nobody: main is its own pid 1's child. Returns 1 in the caller, 0 in main, and -1 with step and error. */
int sandbox_enter(struct entry *entry)
{
	/* Not on the caller's stack, which may be a small one, and which must not end before whoever runs on these. */
	struct state *volatile state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
	stack_t alternate;
	sigset_t all, mask;
	ssize_t got;
	char answer;
	pid_t pid;
	int forked;

	entry->directories = 0;
	if (state == MAP_FAILED) {
		fail(entry, STEP_CLONE);
		return -1;
	}
	entry->step = STEP_CLONE; /* stays where joiner is killed */
	entry->error = ECANCELED;
	state->entry = entry;
	entry->before();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	sigaltstack(NULL, &alternate);
	if (setjmp(state->caller)) {
		munmap(state, sizeof *state);
		register_rseq();
		sigaltstack(&alternate, NULL);
		settle(entry);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		entry->in_child();
		/* The word to go. Waited for here, since the less Python runs the fewer pages are copied. */
		while ((got = read(entry->own[0], &answer, 1)) < 0 && errno == EINTR)
			;
		if (got != 1)
			_exit(1);
		be_alone();
		return 0;
	}
	pid = clone(joiner, state->joiner_stack + sizeof state->joiner_stack, CLONE_VM, state);
	if (pid < 0)
		fail(entry, STEP_CLONE);
	else
		waitpid(pid, NULL, __WALL);
	if (state->forker > 0)
		waitpid(state->forker, NULL, __WALL);
	forked = state->forked;
	munmap(state, sizeof *state);
	prctl(PR_SET_DUMPABLE, dumpable, 0, 0, 0); /* joining takes it, and where it went wrong it was not given back */
	sigprocmask(SIG_SETMASK, &mask, NULL);
	entry->in_parent();
	return forked ? 1 : -1;
}
