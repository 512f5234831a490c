"""The suite's own plugins. `pytester` can only be asked for here, in the root conftest."""

import signal

pytest_plugins = ["pytester"]

# A shell that starts the suite in the background has it ignore SIGINT, and so whatever the tests start, and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
