"""A pipeline that takes no conf of local features by name."""

if __name__ == "__main__":
    raise RuntimeError("this was not to be run")
