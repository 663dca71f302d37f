"""Compare the baseline and SmartBatch on this machine, one after the other under the same load."""
