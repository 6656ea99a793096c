"""A pipeline that names its conf of retrieval in its code."""

import argparse
from pathlib import Path

from ... import extract_features

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--outputs", type=Path)
    args = parser.parse_args()
    extract_features.main(extract_features.confs["netvlad"], args.images, args.outputs)
