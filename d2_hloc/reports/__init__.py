"""Reports of runs: pages, charts, pictures, and tables in the terminal."""
