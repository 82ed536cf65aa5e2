"""The public functions: what the command line does, with the same words and defaults.

They neither print nor exit. Messages go to the logger `bilinear_cli`, and progress bars to stderr
or into the notebook. `bilinear_cli` has the public names, and the commands call these modules too.
"""
