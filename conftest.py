"""The suite's own plugins. `pytester` can only be asked for here, in the root conftest."""

pytest_plugins = ["pytester"]
