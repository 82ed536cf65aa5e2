"""Importing Dask, which is an extra, without the log lines of its own."""

import logging
import os
import warnings

from bilinear_cli.errors import BilinearError


def import_dask() -> None:
    """Import Dask, and silence its scheduler, workers and client, here and in processes begun here.

    Even their errors: a worker that dies, a connection that breaks, a task that raises are what
    Dask recovers from, or what the program says in one line. A worker that was started by hand logs
    as it always does.

    Raises:
        BilinearError: it is not installed.
    """
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    # a large set of photos is sent to the scheduler once, and that is meant
    os.environ.setdefault("DASK_DISTRIBUTED__ADMIN__LARGE_GRAPH_WARNING_THRESHOLD", "1GB")
    try:
        import distributed  # noqa: F401
    except ImportError as error:
        raise BilinearError(
            f"--scheduler needs {error.name}, which is not installed: pip install '.[cluster]'"
        ) from error
    # of ports, and of versions, which are compared with ours in a line
    warnings.filterwarnings("ignore", module="distributed")
    for name in ("distributed", "distributed.client", "distributed.gc"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
