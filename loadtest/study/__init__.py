"""The parameter study: which batching settings give the most throughput within a latency objective?"""
