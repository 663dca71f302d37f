"""A discrete-event simulator: the product's batcher and policy on models of broker, gateways and devices.

It covers what no test machine can show: a thousand workers, a million requests/s, any latency curve. Run it with
`python -m simulation` in the repository; it is not installed with the package.
"""
