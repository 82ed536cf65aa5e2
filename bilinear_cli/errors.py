"""The errors that callers may catch. The command line prints each as one line.

A message says what happened, where, and what to do.
"""

import logging

# Without it, Python prints the warnings of a program that has not set up logging.
logging.getLogger("bilinear_cli").addHandler(logging.NullHandler())


class BilinearError(Exception):
    """A fault in the data or at run time; the command line prints it and exits with 1."""

    exit_code = 1


class UsageError(BilinearError, ValueError):
    """Options or arguments that are invalid; the command line exits with 2."""

    exit_code = 2


class BadPhotoError(BilinearError, OSError):
    """A file that cannot be read as a photo, or a photo set without a readable photo."""


class FeatureFileError(BilinearError, OSError):
    """A feature file that is missing, damaged, incomplete, or of another format."""


class InUseError(FeatureFileError):
    """A feature file that another run is writing; the caller may wait and try again."""
