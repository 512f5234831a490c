"""`python -m pytest_sandbox`: the doctor, without pytest."""

import sys

from pytest_sandbox.sandbox.doctor import main

sys.exit(main())
