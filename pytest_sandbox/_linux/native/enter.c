/* Fork the calling thread into namespaces that are there already, in one fork of its memory.
 *
 * A pid namespace can only be entered by a child (setns(2)), and a user namespace only by a process of one thread. To fork
 * twice would copy the page tables of a large Python twice. So two short-lived processes share the caller's memory
 * (CLONE_VM) while its thread waits here:
 *
 *     caller                   blocked in wait4 until all is done
 *     +- joiner  CLONE_VM      enters cgroups and namespaces, says so, gives up privileges
 *        +- forker  CLONE_VM   the first in the pid namespace: calls fork(3), which copies the memory once
 *           +- main            jumps onto the caller's stack, and returns from sandbox_enter() with 0
 *
 * forker ends at once, and main is adopted by pid 1 of its namespace. The callers' thread-local storage is used by whoever of
 * the three runs, one at a time. Sources: clone(2), setns(2), capabilities(7), rseq(2).
 */
#define _GNU_SOURCE
#undef _FORTIFY_SOURCE /* its longjmp refuses a jump to another stack */
#include <errno.h>
#include <linux/capability.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum step { STEP_CLONE = 1, STEP_CGROUP, STEP_SETNS, STEP_SAY, STEP_WAIT, STEP_CGROUP_NAMESPACE, STEP_PRIVILEGES, STEP_FORK };

/* As `native.py` lays it out. Everything that the helpers need is here, since they may not touch Python's own memory. */
struct entry {
	const int *cgroups; /* descriptors of version 1's `tasks` */
	size_t cgroup_count;
	const int *namespaces; /* the user namespace first */
	size_t namespace_count;
	int wire;
	const char *greeting; /* what joiner says on the wire when it is in; it is answered with one byte */
	size_t greeting_length;
	uint64_t capabilities; /* what main keeps */
	uint32_t last_capability;
	void (*before)(void), (*in_parent)(void), (*in_child)(void); /* Python's part of os.fork() */
	int step, error; /* what failed, and its errno */
};

struct state {
	struct entry *entry;
	volatile int forked;
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

static int joiner(void *argument)
{
	struct state *state = argument;
	struct entry *entry = state->entry;
	char answer;
	pid_t pid;

	for (size_t i = 0; i < entry->cgroup_count; i++)
		if (write(entry->cgroups[i], "0", 1) != 1)
			return fail(entry, STEP_CGROUP);
	for (size_t i = 0; i < entry->namespace_count; i++)
		if (setns(entry->namespaces[i], 0))
			return fail(entry, STEP_SETNS);
	if (write(entry->wire, entry->greeting, entry->greeting_length) != (ssize_t)entry->greeting_length)
		return fail(entry, STEP_SAY);
	errno = 0;
	if (read(entry->wire, &answer, 1) != 1)
		return fail(entry, STEP_WAIT);
	if (unshare(CLONE_NEWCGROUP))
		return fail(entry, STEP_CGROUP_NAMESPACE);
	if (give_up(entry))
		return fail(entry, STEP_PRIVILEGES);
	pid = clone(forker, state->forker_stack + sizeof state->forker_stack, CLONE_VM, state);
	if (pid < 0)
		return fail(entry, STEP_FORK);
	return waitpid(pid, NULL, __WALL) != pid;
}

/* The kernel forgets the area of who shares memory (rseq_fork), and fork(3) takes for granted that it is still known. */
static void register_rseq(void)
{
	extern const ptrdiff_t __rseq_offset __attribute__((weak));
	extern const unsigned int __rseq_size __attribute__((weak));

	if (&__rseq_size && __rseq_size)
		syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 0, 0x53053053);
}

/* The pid of nobody: main is its own pid 1's child. Returns 1 in the caller, 0 in main, and -1 with step and error. */
int sandbox_enter(struct entry *entry)
{
	struct state state; /* not initialised: its stacks would be touched */
	stack_t alternate;
	sigset_t all, mask;
	pid_t pid;

	entry->step = entry->error = 0;
	state.entry = entry;
	state.forked = 0;
	entry->before();
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &mask);
	sigaltstack(NULL, &alternate);
	if (setjmp(state.caller)) {
		register_rseq();
		sigaltstack(&alternate, NULL);
		sigprocmask(SIG_SETMASK, &mask, NULL);
		entry->in_child();
		return 0;
	}
	pid = clone(joiner, state.joiner_stack + sizeof state.joiner_stack, CLONE_VM, &state);
	if (pid < 0)
		fail(entry, STEP_CLONE);
	else
		while (waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	sigprocmask(SIG_SETMASK, &mask, NULL);
	entry->in_parent();
	return state.forked ? 1 : -1;
}
