"""One kernel mechanism a module: namespaces, mounts, overlay, cgroups, network, process. Imports `_linux` and `model`.

None knows what a sandbox is, and few of another: `cgroups/` is one mechanism, overlays are mounts. `sandbox/` composes them.
"""
