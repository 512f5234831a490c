"""`python -m pytest_sandbox`: the doctor, without pytest."""

import sys


def main() -> int:
    """What this machine can do; the exit status. Elsewhere nothing of it can even be imported."""
    if sys.platform != "linux":
        sys.stdout.write(
            f"host: {sys.platform}\nNO  platform: {sys.platform} has no namespaces\n"
            "    fix: run the tests on Linux, or with --no-sandbox\n\npytest --sandbox cannot run here: no platform\n"
        )
        return 1
    from pytest_sandbox.sandbox import doctor

    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
