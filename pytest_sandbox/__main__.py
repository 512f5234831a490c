"""`python -m pytest_sandbox`: the doctor, without pytest."""

import sys
from collections.abc import Callable


def main(refusal: Callable[[], str] = str) -> int:
    """What this machine can do, and why a run would be refused all the same; the exit status.

    Elsewhere nothing of it can even be imported.
    """
    if sys.platform != "linux":
        sys.stdout.write(
            f"host: {sys.platform}\nNO  platform: {sys.platform} has no namespaces\n"
            "    fix: run the tests on Linux, or with --no-sandbox\n\npytest --sandbox cannot run here: no platform\n"
        )
        return 1
    from pytest_sandbox.sandbox import doctor

    return doctor.main(refusal)


if __name__ == "__main__":
    sys.exit(main())
