"""pytest's side. Imports nothing by itself.

controller   outside of every sandbox: the run, the tree of scopes, the walk over the tests
reporting    what is read of a run
inside       in a sandbox: processes of scopes and of tests
others       plugins other than pytest's own
builtin      what pytest itself keeps in memory, across the forks
planning     options, markers, and what follows from them

Each imports only from those below it.
"""
