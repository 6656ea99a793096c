"""What every room shares: structs, pixels, images, options, text, threads, metrics."""
