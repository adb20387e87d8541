"""What an operation is made with: registering, choosing a backend, checking arguments, numba and Triton at run time.

`ssm_core.ops` is built of it, and so are the operations of other packages: see docs/how-to/own-operation.md. Nothing
is imported here, since numba and Triton are loaded by the backends that need them alone.
"""
