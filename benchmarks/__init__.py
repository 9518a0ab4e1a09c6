"""Every hot path against its peers: ``python -m benchmarks``, from the checkout."""
