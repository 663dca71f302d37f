"""What every other package of the worker uses: batch, model interface, device, tensors."""
