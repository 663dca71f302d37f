"""The baseline and SmartBatch one after the other on this machine, under the same load: what does batching buy?"""
