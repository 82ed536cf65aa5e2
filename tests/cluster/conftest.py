"""Dask without its profiler in the process of the tests, which has graphs of TensorFlow's.

See `worker._keep_from_freezing`; workers that are started by hand have it.
"""

import dask

dask.config.set({"distributed.worker.profile.enabled": False})
