"""Declares the C functions for cffi's out-of-line ABI mode; run as a script it writes `_abi.py` beside it.

tests/_linux checks that the committed `_abi.py` is what this makes.
"""

from __future__ import annotations

from pathlib import Path

import cffi

CDEF = """
int mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data);
int umount2(const char *target, int flags);
int unshare(int flags);
int setns(int fd, int nstype);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
int capset(void *header, const void *data);
int epoll_ctl(int epfd, int op, int fd, const void *event);
int madvise(void *address, size_t length, int advice);
long syscall(long number, ...);

struct mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct cap_header { uint32_t version; int pid; };
struct cap_data { uint32_t effective, permitted, inheritable; };
"""

builder = cffi.FFI()
builder.set_source("pytest_sandbox._linux._abi", None)
builder.cdef(CDEF)

if __name__ == "__main__":
    builder.emit_python_code(str(Path(__file__).with_name("_abi.py")))
