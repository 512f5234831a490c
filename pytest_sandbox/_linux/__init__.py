"""The kernel's interface, typed: system calls, their flags, and parsers of /proc. Imports nothing else of the package.

Nothing here knows what a sandbox is. `build.py` declares the C functions; the module that cffi makes of it, `_abi.py`,
is committed, so that installing needs no compiler (cffi's out-of-line ABI mode).
"""
