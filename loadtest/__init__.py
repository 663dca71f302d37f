"""Load tests and benchmarks, run from the repository with `python -m loadtest.NAME`; not installed with the package.

They measure servers from outside, over HTTP; a test names the few files that import the product.
"""
