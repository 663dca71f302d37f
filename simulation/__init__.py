"""The system in virtual time: the worker's own claimer and policy, on a model of the broker, the gateways and the
devices. For what no test machine shows: a thousand workers, a million requests a second, any latency curve."""
