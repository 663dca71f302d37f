"""Load tests and benchmarks, run from the repository with `python -m loadtest.NAME`; not installed with the package.

They measure servers over HTTP. tests/test_imports.py lists the few files that import the product.
"""
