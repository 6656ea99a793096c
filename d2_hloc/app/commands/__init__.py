"""Work of the commands. Each module loads what its commands need, torch first of all."""
