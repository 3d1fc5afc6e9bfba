"""The isolated place of one deployment version: namespaces, mounts, filters, limits, and the run of one execution.

`launch` starts a sandbox (a zygote with the user's module imported), `run` drives one execution in it. What is inside
is untrusted from the first byte on, the zygote like the run.
"""
