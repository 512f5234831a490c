"""One kernel mechanism a module: namespaces, mounts, overlay, cgroups, network, process. Imports `_linux` and `model`.

None knows of another, nor of what a sandbox is; `sandbox/` composes them.
"""
