"""What is measured: each module has functions from `Options` to a `Report`."""
