"""The d2-hloc command and its demo."""
