"""A discrete-event simulator: the product's own batcher and policy on models of broker, gateways and devices.

For what no test machine shows: a thousand workers, a million requests/s, any latency curve. Not installed with the
package: `python -m simulation` in the repository.
"""
