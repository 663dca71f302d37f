"""Types that the other packages of the worker share: batches, the model interface, devices, tensors."""
