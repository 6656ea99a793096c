"""Parts that every room shares: structs, pixels, images, options, text, threads, metrics."""
