"""What a run shows: pages, charts, pictures, tables in the terminal."""
