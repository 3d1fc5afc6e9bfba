"""The control plane: HTTP, services, store, queue, recorder and the supervisor of `fas up`."""
